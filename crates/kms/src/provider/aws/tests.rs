use super::*;

const KEY: &str = "arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab";

fn settings(text: &str) -> Result<Settings, String> {
    toml::from_str(text).map_err(|error| error.to_string())
}

#[test]
fn every_source_is_configured() {
    for (source, shown) in [
        ("file = { path = '/c', profile = 'kms' }", "File"),
        ("file = { path = '/c' }", "\"default\""),
        ("web_identity = { role = 'arn:aws:iam::111122223333:role/kms', token_file = '/t' }", "\"bulla-kms\""),
        ("instance = {}", "Instance"),
        ("instance = { endpoint = 'http://[fd00:ec2::254]' }", "fd00:ec2::254"),
        ("container = { uri = 'http://169.254.170.23/v1/credentials', token_file = '/t' }", "/v1/credentials"),
    ] {
        let read = settings(&format!("key = '{KEY}'\ncredentials = {{ {source} }}")).unwrap();
        assert!(format!("{read:?}").contains(shown), "{read:?}");
        let opened = Aws::open(&read).unwrap();
        assert_eq!(opened.http.origin().as_str(), "https://kms.eu-west-1.amazonaws.com");
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let file = "credentials = { file = { path = '/c' } }";
    for (text, says) in [
        (file.to_owned(), "missing field `key`"),
        (format!("key = '{KEY}'"), "missing field `credentials`"),
        (format!("key = '{KEY}'\nregion = 'x'\n{file}"), "unknown field `region`"),
        (format!("key = '{KEY}'\nendpoint = 'http://kms.example'\n{file}"), "use https"),
        (format!("key = '{KEY}'\ncredentials = {{ instance = {{ endpoint = 'http://10.0.0.1' }} }}"), "link-local"),
        (format!("key = '{KEY}'\ncredentials = {{ container = {{ uri = 'http://10.0.0.1/a' }} }}"), "link-local"),
        (format!("key = '{KEY}'\ncredentials = {{ container = {{ uri = 'http://127.0.0.1' }} }}"), "with a path"),
        (format!("key = '{KEY}'\ncredentials = {{ environment = {{}} }}"), "unknown variant `environment`"),
        (format!("key = 'arn:aws:kms:eu-west-1:111122223333:alias/k8s'\n{file}"), "an alias may be moved"),
        (format!("key = '1234abcd'\n{file}"), "expected the ARN of a key"),
        (format!("key = 'arn:aws:kms:eu-west-1:1:key/a'\n{file}"), "expected the ARN of a key"),
        (format!("key = 'arn:aws:kms:a.example/:111122223333:key/a'\n{file}"), "expected the ARN of a key"),
        (format!("key = '{KEY}/b'\n{file}"), "expected the ARN of a key"),
        (format!("key = '{KEY}:b'\n{file}"), "expected the ARN of a key"),
    ] {
        let error = settings(&text).map(|_| ()).unwrap_err();
        assert!(error.contains(says), "{text}\n{error}");
    }
}

#[test]
fn a_partition_has_its_own_domain() {
    for (partition, origin) in [
        ("aws", Some("https://kms.eu-west-1.amazonaws.com")),
        ("aws-us-gov", Some("https://kms.eu-west-1.amazonaws.com")),
        ("aws-cn", Some("https://kms.eu-west-1.amazonaws.com.cn")),
        ("aws-iso", None),
    ] {
        let key = KeyArn::try_from(KEY.replace("arn:aws:", &format!("arn:{partition}:"))).unwrap();
        let found = key.origin("kms").map(|origin| origin.to_string());
        assert_eq!(found.as_deref().ok(), origin, "{found:?}");
    }
}

#[test]
fn only_material_that_is_there_unwraps() {
    let read = |state: &str, import: Option<&str>| {
        let import_state = import.map(str::to_owned);
        let key_material_state = Some(state.to_owned());
        Rotation { key_material_id: None, key_material_state, import_state, rotation_date: None }.unwraps()
    };
    for (state, import, unwraps) in [
        ("CURRENT", None, true),
        ("NON_CURRENT", None, true),
        ("NON_CURRENT", Some("IMPORTED"), true),
        ("NON_CURRENT", Some("PENDING_IMPORT"), false),
        ("PENDING_ROTATION", Some("IMPORTED"), false),
    ] {
        assert_eq!(read(state, import), unwraps, "{state} {import:?}");
    }
}
