//! The pages of the reference that come from the table of routes and the list of error codes, and the plain list of
//! routes that the tests keep.

use super::openapi::{auth, query_description};
use super::{Effect, Proof, ROUTES, ReplyKind, RequestBody, Route};
use bulla_wire::error::Code;
use std::fmt::Write;

/// One line a route, for the golden file: whoever adds a route or changes who may call sees it in a diff.
pub fn routes_golden() -> String {
    let mut text = String::new();
    for route in ROUTES {
        let action = route.action.map_or("-", |action| action.as_str());
        let query = if route.query.is_empty() { "-".to_owned() } else { route.query.join(",") };
        let _ = writeln!(
            text,
            "{:6} {:32} {:16} {:6} {:4} {:17} {:8} {:15} {:6} {query}",
            route.method,
            route.template,
            format!("{:?}", route.endpoint),
            auth(route.auth),
            if route.proof == Proof::Mtls { "mtls" } else { "-" },
            action,
            effect(route),
            request(route.request),
            reply(route.reply),
        );
    }
    text.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

/// `docs/reference/routes.md`.
pub fn routes_page() -> String {
    let mut text = String::from(
        "# Routes\n\n\
         Generated from the table of routes; `docs/openapi.json` has the bodies.\n\n\
         Who may call: *open* takes no signature; *init* an admin that the request names; *seal* the admins of the seal \
         configuration, also while sealed; *policy* whoever Cedar permits the action. With *mtls* the caller is known by its \
         signature or by the certificate of its connection, elsewhere by the signature alone.\n\
         A *mutation* happens exactly once by its nonce. A reply *secret* is an age file to the caller's own \
         recipients, *claim* an age file to the claim of the request.\n\n\
         | route | | who | action | effect | body, at most | reply |\n\
         | --- | --- | --- | --- | --- | --- | --- |\n",
    );
    for route in ROUTES {
        let query = if route.query.is_empty() { String::new() } else { format!("?{}=", route.query.join("=&")) };
        let _ = writeln!(
            text,
            "| `{} {}{query}` | {} | {} | {} | {} | {} | {} |",
            route.method,
            route.template,
            route.summary,
            who(route),
            route.action.map_or(String::new(), |action| format!("`{}`", action.as_str())),
            effect(route),
            request(route.request),
            reply(route.reply),
        );
    }
    text.push_str("\n## Names of queries\n\n| name | |\n| --- | --- |\n");
    let mut names: Vec<&str> = ROUTES.iter().flat_map(|route| route.query).copied().collect();
    names.sort_unstable();
    names.dedup();
    for name in names {
        let _ = writeln!(text, "| `{name}` | {} |", query_description(name));
    }
    text
}

/// `docs/reference/errors.md`.
pub fn errors_page() -> String {
    let mut text = String::from(
        "# Errors\n\n\
         Generated from the list of codes. A code's text is stable; messages may change.\n\n\
         `{\"errors\":[{\"code\",\"message\",\"field\"?,\"hint\"?,\"id\"?,\"receipt\"?}]}`: `field` names what is at fault, `hint` \
         says what to do, `id` finds the request in audit and log, `receipt` is a signed proof of the refusal.\n\n\
         | code | status | |\n\
         | --- | --- | --- |\n",
    );
    for code in Code::ALL {
        let _ = writeln!(text, "| `{code}` | {} | {} |", code.status(), code.meaning());
    }
    text
}

const fn who(route: &Route) -> &'static str {
    match route.proof {
        Proof::Signature => auth(route.auth),
        Proof::Mtls => "policy, mtls",
    }
}

const fn effect(route: &Route) -> &'static str {
    match route.effect {
        Effect::Read => "read",
        Effect::Mutation => "mutation",
    }
}

fn request(request: RequestBody) -> String {
    match request {
        RequestBody::Empty => "-".into(),
        RequestBody::Json { max } => format!("json {}", size(max)),
        RequestBody::Age { max } => format!("age {}", size(max)),
        RequestBody::Parcel { max } => format!("parcel {}", size(max)),
    }
}

/// KiB, rounded down: a page is no place for single bytes.
fn size(bytes: usize) -> String {
    format!("{} KiB", bytes / 1024)
}

const fn reply(reply: ReplyKind) -> &'static str {
    match reply {
        ReplyKind::Json => "json",
        ReplyKind::Secret => "secret",
        ReplyKind::Claim => "claim",
        ReplyKind::Snapshot => "snapshot",
    }
}
