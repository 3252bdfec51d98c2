//! Every single byte that a signature covers, changed alone, for one route of each kind of body; in a night
//! (`cargo xtask test --long`) for every route of an unsealed node.

use crate::cases::Cast;
use crate::replay::{good, here};
use crate::support::{Request, Wire, finish, rows};
use bulla_server::route::{Endpoint, ROUTES, Route};
use bulla_testkit::long;
use bulla_testkit::world::{Shape, World};
use std::sync::Arc;

/// Connections at once: a body has thousands of bytes.
const CONNECTIONS: usize = 4;

/// Another byte that may stand in a header or a path.
fn other(byte: u8) -> u8 {
    match byte ^ 1 {
        changed if changed.is_ascii_graphic() && !b"#?%\"<>\\^`{|}".contains(&changed) => changed,
        _ if byte == b'x' => b'y',
        _ => b'x',
    }
}

fn with_other(text: &str, at: usize) -> String {
    let mut bytes = text.as_bytes().to_vec();
    bytes[at] = other(bytes[at]);
    String::from_utf8(bytes).unwrap()
}

/// Which byte is changed.
#[derive(Debug, Clone, Copy)]
enum Place {
    Path(usize),
    Query(usize),
    Header(usize, usize),
    Body(usize),
}

impl Place {
    fn all(request: &Request) -> Vec<Self> {
        // Without its first slash it would be no HTTP.
        let path = (1..request.path.len()).map(Self::Path);
        let query = (0..request.query.len()).map(Self::Query);
        let headers = request.headers.iter().enumerate();
        let headers = headers.flat_map(|(index, (_, value))| (0..value.len()).map(move |at| Self::Header(index, at)));
        path.chain(query).chain(headers).chain((0..request.body.len()).map(Self::Body)).collect()
    }

    fn change(self, request: &Request) -> Request {
        let mut changed = request.clone();
        match self {
            Self::Path(at) => changed.path = with_other(&request.path, at),
            Self::Query(at) => changed.query = with_other(&request.query, at),
            Self::Header(index, at) => changed.headers[index].1 = with_other(&request.headers[index].1, at),
            Self::Body(at) => changed.body[at] ^= 1,
        }
        changed
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_byte_of_a_request_may_change() {
    let world = World::new(Shape::durable()).await;
    let mut cast = Cast::new(&world).await;
    let node = world.server().node.parts.key.public_key().clone();
    // No body and a query, JSON, encrypted JSON, and a parcel.
    let kinds = [Endpoint::PrincipalList, Endpoint::PolicyPut, Endpoint::KvPut, Endpoint::WrapCreate];
    let chosen = |route: &&Route| if long() { here(route) } else { kinds.contains(&route.endpoint) };
    for route in ROUTES.iter().filter(chosen) {
        let endpoint = route.endpoint;
        let (who, request) = cast.request(&world, route).await;
        let before = rows(&world).await;
        let places = Arc::new(Place::all(&request));
        let request = Arc::new(request);
        let tasks: Vec<_> = (0..CONNECTIONS)
            .map(|first| {
                let (request, places, node) = (request.clone(), places.clone(), node.clone());
                let mut wire = Wire::new(world.server().ready.address);
                tokio::spawn(async move {
                    for place in places.iter().skip(first).step_by(CONNECTIONS) {
                        let changed = place.change(&request);
                        let reply = wire.send(&changed).await;
                        assert!(reply.status >= 400, "{endpoint:?}, {place:?}: {}", reply.status);
                        reply.verify(&changed, &node);
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(rows(&world).await, before, "{endpoint:?}");
        println!("{endpoint:?}: {} bytes, {} of them in the body", places.len(), request.body.len());
        // It was refused for its bytes: as it is, it is still taken.
        let reply = cast.caller(who).send(&request).await;
        assert!(good(route, &reply), "{route:?}: {reply:?}");
    }
    finish(world).await;
}
