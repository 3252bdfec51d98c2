//! AWS KMS as others wrote it: moto, and botocore's own signatures.

use crate::check::{observed, there_and_back};
use bulla_kms::provider::Provider as _;
use bulla_kms::provider::aws::{Aws, Settings};
use bulla_testkit::cloud::aws::KEY;
use bulla_testkit::cloud::peer::{Call, Model, Peer, text};
use bulla_testkit::moto::Moto;
use bulla_testkit::{process, skip, tools};
use std::io::Write as _;
use std::path::Path;
use std::process::Stdio;

fn open(key: &str, origin: &str, ca: Option<&Path>, folder: &Path) -> Aws {
    let credentials = folder.join("credentials");
    std::fs::write(&credentials, "[default]\naws_access_key_id = AKIAONE\naws_secret_access_key = a/b+c=\n").unwrap();
    let ca = ca.map_or_else(String::new, |ca| format!("ca = '{}'\n", ca.display()));
    let credentials = credentials.display();
    let text =
        format!("key = '{key}'\nendpoint = '{origin}'\n{ca}credentials = {{ file = {{ path = '{credentials}' }} }}");
    Aws::open(&toml::from_str::<Settings>(&text).unwrap()).unwrap()
}

/// Runs a script and gives what it prints.
fn python(script: &str, arguments: &[&str], input: &[u8]) -> Option<String> {
    let mut command = process::command(tools::moto()?);
    command.args(["-c", script]).args(arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    let mut child = process::spawn(command);
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    output.status.success().then(|| String::from_utf8(output.stdout).unwrap().trim().to_owned())
}

#[tokio::test]
async fn moto_wraps_and_unwraps() {
    let Some(moto) = Moto::start() else {
        skip!("moto_wraps_and_unwraps", "needs moto of PyPI (BULLA_TEST_MOTO)");
    };
    let (folder, origin) = (tempfile::tempdir().unwrap(), moto.origin());
    let script = "import boto3, sys\n\
                  kms = boto3.client('kms', endpoint_url=sys.argv[1], region_name='eu-west-1',\n\
                  aws_access_key_id='AKIAONE', aws_secret_access_key='x')\n\
                  print(kms.create_key(KeyUsage='ENCRYPT_DECRYPT')['KeyMetadata']['Arn'])";
    let key = python(script, &[&origin], b"").unwrap();
    let aws = open(&key, &origin, None, folder.path());
    let seen = observed(&aws).await;
    assert_eq!((seen.active.backend.as_str(), seen.active.version.as_str()), (key.as_str(), "1"));
    there_and_back(&aws, &seen.active, true).await;
}

/// The same request, signed by AWS's own library.
#[tokio::test]
async fn botocore_signs_the_same() {
    if tools::moto().is_none() {
        skip!("botocore_signs_the_same", "needs botocore of PyPI (BULLA_TEST_MOTO)");
    }
    let peer = Peer::start(|_| -> Model { Box::new(|_| text(500, "")) }).await;
    let aws = open(KEY, &peer.origin, Some(&peer.ca), peer.ca.parent().unwrap());
    assert!(aws.observe().await.is_err());
    let call = peer.calls(|call: &Call| Some(call.clone())).remove(0);
    let script = "import datetime, sys\n\
                  from botocore.auth import SigV4Auth\n\
                  from botocore.awsrequest import AWSRequest\n\
                  from botocore.credentials import Credentials\n\
                  origin, stamp, host, target = sys.argv[1:]\n\
                  headers = {'content-type': 'application/x-amz-json-1.1', 'host': host, 'x-amz-target': target}\n\
                  request = AWSRequest('POST', origin + '/', headers, sys.stdin.buffer.read())\n\
                  request.context['timestamp'] = stamp\n\
                  request.headers['x-amz-date'] = stamp\n\
                  auth = SigV4Auth(Credentials('AKIAONE', 'a/b+c='), 'kms', 'eu-west-1')\n\
                  text = auth.string_to_sign(request, auth.canonical_request(request))\n\
                  signed = auth.signed_headers(auth.headers_to_sign(request))\n\
                  print(f'AWS4-HMAC-SHA256 Credential={auth.scope(request)}, SignedHeaders={signed}, '\n\
                  f'Signature={auth.signature(text, request)}')";
    let arguments = [&peer.origin, call.header("x-amz-date"), call.header("host"), call.header("x-amz-target")];
    assert_eq!(python(script, &arguments, &call.body).unwrap(), call.header("authorization"));
}
