//! Requests of the transit engine to its operations.

use super::{Given, Op, cursor, malformed, parse};
use crate::route::{Endpoint, Query};
use bulla_core::engine::transit;
use bulla_core::operation::{Operation, Refusal};
use bulla_wire::error::Code;
use bulla_wire::json::{self, MAX_JSON_BYTES};
use serde::de::DeserializeOwned;

/// Parses a body that holds secrets.
fn secret<T: DeserializeOwned>(body: &[u8], fields: &'static [&'static str]) -> Result<T, Refusal> {
    json::parse_secret(body, MAX_JSON_BYTES, fields).map_err(|e| malformed(&e))
}

pub(super) fn transit_op(
    endpoint: Endpoint,
    given: Given,
    query: &Query,
    limit: usize,
    body: &[u8],
) -> Result<Op, Refusal> {
    if endpoint == Endpoint::TransitList {
        let list = transit::List { after: cursor(query, "after")?, limit };
        return Ok(Op::Transit(Box::new(list)));
    }
    let name = given.name()?;
    let op: Box<dyn Operation + Send + Sync> = match endpoint {
        Endpoint::TransitRead => Box::new(transit::Read { name }),
        Endpoint::TransitCreate => Box::new(transit::Create { name, body: parse(body)? }),
        Endpoint::TransitImport => {
            let fields = &["kind", "key", "exportable", "deletion_allowed"];
            Box::new(transit::Import { name, body: secret(body, fields)? })
        }
        Endpoint::TransitRestore => {
            let fields = &[
                "v",
                "name",
                "kind",
                "min_decryption_version",
                "min_encryption_version",
                "deletion_allowed",
                "versions",
            ];
            Box::new(transit::Restore { name, body: secret(body, fields)? })
        }
        Endpoint::TransitRotate => Box::new(transit::Rotate { name }),
        Endpoint::TransitConfigure => Box::new(transit::Configure { name, body: parse(body)? }),
        Endpoint::TransitDelete => Box::new(transit::Delete { name }),
        Endpoint::TransitExport => Box::new(transit::Export { name, body: parse(body)? }),
        Endpoint::TransitBackup => Box::new(transit::Backup { name }),
        Endpoint::TransitEncrypt => Box::new(transit::Encrypt { name, body: secret(body, &["items", "version"])? }),
        Endpoint::TransitDecrypt => Box::new(transit::Decrypt { name, body: parse(body)? }),
        Endpoint::TransitRewrap => Box::new(transit::Rewrap { name, body: parse(body)? }),
        Endpoint::TransitDatakey => Box::new(transit::Datakey { name, body: parse(body)?, wrapped: false }),
        Endpoint::TransitDatakeyWrapped => Box::new(transit::Datakey { name, body: parse(body)?, wrapped: true }),
        Endpoint::TransitSign => {
            let fields = &["items", "version", "digest_algorithm"];
            Box::new(transit::Sign { name, body: secret(body, fields)? })
        }
        Endpoint::TransitVerify => {
            Box::new(transit::Verify { name, body: secret(body, &["items", "digest_algorithm"])? })
        }
        Endpoint::TransitHmac => Box::new(transit::Hmac { name, body: secret(body, &["items", "version"])? }),
        Endpoint::TransitVerifyHmac => Box::new(transit::VerifyHmac { name, body: secret(body, &["items"])? }),
        _ => return Err(Refusal::new(Code::UnknownRoute, "this route is not one of the transit engine")),
    };
    Ok(Op::Transit(op))
}
