//! The table of routes: its golden list, the documents made from it, and the one spelling of paths.
#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use bulla_core::action::Action;
use bulla_server::config;
use bulla_server::route::openapi::openapi;
use bulla_server::route::reference::{errors_page, routes_golden, routes_page};
use bulla_server::route::{Auth, Effect, Endpoint, Matched, Param, Proof, ROUTES, RequestBody, RouteError, find};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// Compares a generated text with its file; with BULLA_BLESS=1 it writes the file.
fn kept(path: &str, text: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..").join(path);
    if std::env::var_os("BULLA_BLESS").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(found == text, "{} is not what the code says; run this test with BULLA_BLESS=1", path.display());
}

#[test]
fn generated_files_are_up_to_date() {
    kept("crates/server/tests/golden/routes.txt", &routes_golden());
    kept("docs/reference/routes.md", &routes_page());
    kept("docs/reference/errors.md", &errors_page());
    kept("docs/samples/server.toml", &config::sample());
    let mut openapi = serde_json::to_string_pretty(&openapi()).unwrap();
    openapi.push('\n');
    kept("docs/openapi.json", &openapi);
}

/// A path of this template that can be found.
fn example(template: &str) -> String {
    template
        .replace("{name}", "bob@example.com")
        .replace("{path}", "app/prod/db")
        .replace("{id}", "aaaaaaaaaaaaaaaaaaaaaaaaaa")
        .replace("{lease}", "aaaaaaaaaaaaaaaaaaaaaaaaaa")
        .replace("{role}", "app/reader")
}

#[test]
fn each_route_finds_itself_and_no_other_method_does() {
    for route in ROUTES {
        let path = example(route.template);
        let found = find(route.method, &path).unwrap_or_else(|error| panic!("{} {path}: {error}", route.method));
        assert_eq!(found.route, route, "{path}");
        assert_eq!(found.param.is_some(), route.template.contains('{'), "{path}");
        let allowed: BTreeSet<_> =
            ROUTES.iter().filter(|other| other.template == route.template).map(|other| other.method).collect();
        for method in ["GET", "PUT", "POST", "DELETE", "HEAD", "OPTIONS", "PATCH", "get", ""] {
            match find(method, &path) {
                Ok(found) => assert!(allowed.contains(method) && found.route.template == route.template),
                Err(RouteError::MethodNotAllowed { allow }) => {
                    assert!(!allowed.contains(method), "{method} {path}");
                    assert_eq!(allow.split(", ").collect::<BTreeSet<_>>(), allowed);
                }
                Err(error) => panic!("{method} {path}: {error}"),
            }
        }
    }
}

#[test]
fn the_table_is_consistent() {
    let mut seen = BTreeMap::new();
    for route in ROUTES {
        assert!(seen.insert((route.method, route.template), route.endpoint).is_none(), "{} twice", route.template);
        assert!(matches!(route.method, "GET" | "PUT" | "PATCH" | "POST" | "DELETE"));
        // No GET has an effect.
        assert!(route.method != "GET" || route.effect == Effect::Read, "{}", route.template);
        assert!(route.method != "GET" || route.request == RequestBody::Empty, "{}", route.template);
        assert_eq!(route.action.is_none(), route.auth == Auth::Open, "{}", route.template);
        assert!(route.auth != Auth::Open || route.effect == Effect::Read, "{}", route.template);
        match (route.auth, route.action) {
            (Auth::Policy(asked), Some(action)) => assert!(asked == action && action.asks_policy(), "{action}"),
            // A sealed node cannot ask policy, so the seal configuration shows the seal as well.
            (Auth::Sealed, Some(action)) => assert!(!action.asks_policy() || action == Action::SealStatus, "{action}"),
            (Auth::Init, action) => assert_eq!(action, Some(Action::ClusterInit)),
            (Auth::Open, action) => assert_eq!(action, None),
            (auth, None) => panic!("{auth:?} without an action"),
        }
        assert!(route.summary.ends_with('.'));
        // What must be shown to others later is signed: wraps, admissions, policy, documents, snapshots and the seal.
        // So is what cannot be taken back.
        let ordinary = matches!(
            route.endpoint,
            Endpoint::KvPut
                | Endpoint::KvPatch
                | Endpoint::KvConfigure
                | Endpoint::KvDelete
                | Endpoint::KvUndelete
                | Endpoint::AlarmSeen
        );
        assert!(route.proof == Proof::Signature || route.effect == Effect::Read || ordinary, "{}", route.template);
        // Who took a snapshot or a key out is to be shown too.
        let taken_out =
            matches!(route.endpoint, Endpoint::SnapshotPage | Endpoint::TransitExport | Endpoint::TransitBackup);
        let read = matches!(route.auth, Auth::Policy(_)) && !taken_out;
        let by_mtls = read && (route.effect == Effect::Read || ordinary);
        assert_eq!(route.proof == Proof::Mtls, by_mtls, "{}", route.template);
    }
    // Every action can be asked for somewhere.
    let reached: BTreeSet<_> = ROUTES.iter().filter_map(|route| route.action).collect();
    assert_eq!(reached, Action::ALL.iter().copied().collect::<BTreeSet<_>>());
    let open: Vec<_> = ROUTES.iter().filter(|route| route.auth == Auth::Open).map(|route| route.template).collect();
    assert_eq!(open, ["/v1/health", "/v1/cluster", "/v1/challenge"]);
}

#[test]
fn parameters_have_their_types() {
    let param = |method: &str, path: &str| find(method, path).unwrap().param.unwrap();
    assert_eq!(param("GET", "/v1/principal/bob"), Param::Name("bob".parse().unwrap()));
    assert_eq!(param("POST", "/v1/principal/bob:enable"), Param::Name("bob".parse().unwrap()));
    assert_eq!(param("GET", "/v1/kv/a"), Param::Path("a".parse().unwrap()));
    assert_eq!(param("GET", "/v1/kv/a/b/c:list"), Param::Path("a/b/c".parse().unwrap()));
    assert_eq!(param("GET", "/v1/kv/list"), Param::Path("list".parse().unwrap()));
    assert_eq!(param("GET", "/v1/seal/session/x-1/key"), Param::Session("x-1".into()));
    let wrap = "abcdefghijklmnopqrstuvwxy4";
    assert_eq!(param("POST", &format!("/v1/wrap/{wrap}:open")), Param::Wrap(wrap.parse().unwrap()));
    let listed = find("GET", "/v1/kv:list");
    assert!(matches!(listed, Ok(Matched { route, param: None, .. }) if route.endpoint == Endpoint::KvList));
    let deepest = format!("/v1/kv/{}{}", "a".repeat(128) + "/", ["b"; 15].join("/"));
    assert!(find("GET", &deepest).is_ok());
    let longest = format!("/v1/kv/{}:list", vec!["c".repeat(127); 4].join("/"));
    assert!(find("GET", &longest).is_ok(), "{}", longest.len());
}

/// Almost paths of routes.
const MISSPELT: &[&str] = &[
    "",
    "/",
    "*",
    "v1/health",
    "/v1",
    "/v1/",
    "/v1/health/",
    "//v1/health",
    "/v1//health",
    "/V1/health",
    "/v1/Health",
    "/v1/health:",
    "/v1/health:x",
    "/v1/./health",
    "/v1/x/../health",
    "/v1/health;x=1",
    "/v1/health%2f",
    "/v1/%68ealth",
    "/v2/health",
    "/v1/health?x",
    "/v1/health#x",
    "https://host/v1/health",
    "/v1/kv",
    "/v1/kv/",
    "/v1/kv/:list",
    "/v1/kv/a/",
    "/v1/kv//a",
    "/v1/kv/a//b",
    "/v1/kv/./a",
    "/v1/kv/a/..",
    "/v1/kv/a/../b",
    "/v1/kv/a%2fb",
    "/v1/kv/a b",
    "/v1/kv/a\\b",
    "/v1/kv/ä",
    "/v1/kv/a:",
    "/v1/kv/a:x",
    "/v1/kv/a:list:list",
    "/v1/kv/a:b/c",
    "/v1/kv/a:list/",
    "/v1/kv/a:LIST",
    "/v1/principal/",
    "/v1/principal/a/b",
    "/v1/principal/..",
    "/v1/principal/bob:",
    "/v1/principal/bob:delete",
    "/v1/wrap/",
    "/v1/wrap/a",
    "/v1/wrap/AAAAAAAAAAAAAAAAAAAAAAAAAA",
    "/v1/wrap/aaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "/v1/wrap/:open",
    "/v1/database/",
    "/v1/database/a/",
    "/v1/database/a/b/c",
    "/v1/database/a:issue",
    "/v1/database/a/b:release",
    "/v1/database/a:creds",
    "/v1/database/a:x/b",
    "/v1/lease/",
    "/v1/lease/a",
    "/v1/lease/a/b",
    "/v1/lease:none",
    "/v1/seal/session/",
    "/v1/seal/session//key",
    "/v1/seal/session/a/b/key",
    "/v1/seal/session/key",
    "/v1/seal/session/../key",
];

#[test]
fn a_path_has_one_spelling() {
    let long_segment = format!("/v1/kv/{}", "a".repeat(129));
    let too_deep = format!("/v1/kv/{}", ["a"; 17].join("/"));
    let too_long = format!("/v1/kv/{}", vec!["c".repeat(100); 6].join("/"));
    let endless = format!("/v1/kv/{}", "a/".repeat(100_000));
    let made = [long_segment, too_deep, too_long, endless];
    for bad in MISSPELT.iter().copied().chain(made.iter().map(String::as_str)) {
        for method in ["GET", "POST", "PUT", "DELETE"] {
            match find(method, bad) {
                Ok(found) => panic!("{method} {bad} is {:?}", found.route.endpoint),
                // The path of a route, in another spelling: refused whatever the method.
                Err(RouteError::Unknown | RouteError::BadPath(_) | RouteError::MethodNotAllowed { .. }) => {}
            }
        }
    }
}

#[test]
fn openapi_names_every_route() {
    let document = openapi();
    for route in ROUTES {
        let operation = &document["paths"][route.template][route.method.to_ascii_lowercase()];
        assert_eq!(operation["summary"], route.summary);
        assert_eq!(operation["x-bulla-action"].as_str(), route.action.map(Action::as_str));
    }
    let paths = document["paths"].as_object().unwrap().values();
    let ids: Vec<_> = paths.flat_map(|path| path.as_object().unwrap().values()).collect();
    let ids: Vec<_> = ids.iter().map(|operation| operation["operationId"].as_str().unwrap()).collect();
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len());
    // Every reference leads somewhere.
    let text = document.to_string();
    for reference in text.split("\"$ref\":\"#").skip(1).map(|rest| rest.split('"').next().unwrap()) {
        assert!(document.pointer(reference).is_some(), "{reference}");
    }
}
