use super::*;

const KEY: &str = "https://one.vault.azure.net/keys/k8s";

fn settings(text: &str) -> Result<Settings, String> {
    toml::from_str(text).map_err(|error| error.to_string())
}

#[test]
fn every_source_is_configured() {
    for source in [
        "client_secret = { tenant = 't.example', client = 'c', secret_file = '/s' }",
        "certificate = { tenant = 't', client = 'c', certificate = '/c', key = '/k' }",
        "workload_identity = { tenant = 't', client = 'c', token_file = '/t', authority = 'https://a.example' }",
        "managed_identity = {}",
        "managed_identity = { client = 'c', endpoint = 'http://127.0.0.1:40342' }",
    ] {
        let read = settings(&format!("key = '{KEY}/0123'\ncredentials = {{ {source} }}")).unwrap();
        assert_eq!(read.key.version.as_deref(), Some("0123"));
        assert_eq!(Azure::open(&read).unwrap().backend, KEY);
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let machine = "credentials = { managed_identity = {} }";
    for (text, says) in [
        (machine.to_owned(), "missing field `key`"),
        (format!("key = '{KEY}'"), "missing field `credentials`"),
        (format!("key = '{KEY}'\nvault = 'x'\n{machine}"), "unknown field `vault`"),
        (format!("key = 'https://one.vault.azure.net/secrets/a'\n{machine}"), "expected the URL of a key"),
        (format!("key = '{KEY}'\nbits = 1024\n{machine}"), "expected 2048, 3072 or 4096"),
        (format!("key = '{KEY}/'\n{machine}"), "expected the URL of a key"),
        (format!("key = '{KEY}/1/2'\n{machine}"), "expected the URL of a key"),
        (format!("key = '{KEY}?a'\n{machine}"), "expected the URL of a key"),
        (format!("key = 'https://One.vault.azure.net/keys/k8s'\n{machine}"), "in lower case"),
        (format!("key = 'http://one.vault.azure.net/keys/k8s'\n{machine}"), "use https"),
        (format!("key = '{KEY}'\ncredentials = {{ managed_identity = {{ client = 'a&b' }} }}"), "expected the id of"),
    ] {
        let error = settings(&text).map(|_| ()).unwrap_err();
        assert!(error.contains(says), "{text}\n{error}");
    }
}

#[test]
fn the_audience_is_that_of_the_domain() {
    for (host, audience) in [
        ("one.vault.azure.net", Some("https://vault.azure.net")),
        ("one.managedhsm.azure.net", Some("https://managedhsm.azure.net")),
        ("one.vault.usgovcloudapi.net", Some("https://vault.usgovcloudapi.net")),
        ("one.vault.azure.net.example", None),
        ("vault.azure.net", None),
        ("one.two.vault.azure.net", None),
    ] {
        let key = KeyUrl::try_from(format!("https://{host}/keys/a")).unwrap();
        let found = key.audience().map(|audience| audience.to_string());
        assert_eq!(found.as_deref().ok(), audience, "{host}");
    }
}
