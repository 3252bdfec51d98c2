use super::*;

const KEY: &str = "projects/p-1/locations/europe-west1/keyRings/r/cryptoKeys/k8s";

fn settings(text: &str) -> Result<Settings, String> {
    toml::from_str(text).map_err(|error| error.to_string())
}

#[test]
fn every_source_is_configured() {
    for source in [
        "file = { path = '/f' }",
        "metadata = {}",
        "metadata = { account = 'a@p.iam.gserviceaccount.com', endpoint = 'http://127.0.0.1:988' }",
    ] {
        let read = settings(&format!("key = '{KEY}'\ncredentials = {{ {source} }}")).unwrap();
        assert_eq!(Gcp::open(&read).unwrap().origin().as_str(), ENDPOINT);
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let file = "credentials = { file = { path = '/f' } }";
    for (text, says) in [
        (file.to_owned(), "missing field `key`"),
        (format!("key = '{KEY}'"), "missing field `credentials`"),
        (format!("key = '{KEY}'\nproject = 'x'\n{file}"), "unknown field `project`"),
        (format!("key = '{KEY}/cryptoKeyVersions/1'\n{file}"), "without a version"),
        (format!("key = 'projects/a/locations/b/keyRings/c/cryptoKeys/d e'\n{file}"), "expected the name of a key"),
        (format!("key = 'projects/a/locations/../keyRings/c/cryptoKeys/d'\n{file}"), "expected the name of a key"),
        (format!("key = '{KEY}'\nendpoint = 'http://kms.example'\n{file}"), "use https"),
    ] {
        let error = settings(&text).map(|_| ()).unwrap_err();
        assert!(error.contains(says), "{text}\n{error}");
    }
    let text = format!("key = '{KEY}'\ncredentials = {{ metadata = {{ account = 'a/b' }} }}");
    let Err(error) = Gcp::open(&settings(&text).unwrap()) else { panic!("opened") };
    assert!(error.class == Class::Config && error.text.contains("account"), "{error}");
}
