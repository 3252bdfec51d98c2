//! `bulla wrap`: one-time secrets, from the writer's side.

use crate::exit::{Exit, Failure};
use crate::fields::{self, Field};
use crate::input::Limit;
use crate::names::Names;
use crate::output::{Format, FormatArgs, time, word};
use crate::session::{Session, moment};
use bulla_client::{Client, ClientError, Content, Inspected, Outgoing, Resolved, Wrapped, content};
use bulla_crypto::evidence::{Standing, VerifiedOrigin, VerifiedReceipt};
use bulla_wire::api::{WrapReceipts, WrapSummary, Wraps};
use bulla_wire::json;
use bulla_wire::wrap::{LABEL_RULE, MAX_LIFE_MS, Mode, Slip, is_label};
use clap::{Args, Subcommand};
use std::fs::File;
use std::time::Duration;

/// Wraps of a page of the listing.
const PAGE: u32 = 500;

#[derive(Debug, Subcommand)]
pub enum Wrap {
    Create(Create),
    /// List the wraps that you sent and received
    List(FormatArgs),
    /// Show a wrap, its receipts and who opened it, without opening it
    Inspect {
        /// The slip
        slip: Slip,
        #[command(flatten)]
        format: FormatArgs,
    },
    /// Take a wrap back that you sent; tells if it was opened before
    Revoke {
        /// The slip
        slip: Slip,
        #[command(flatten)]
        format: FormatArgs,
    },
    /// Tell that what you opened here is safe, where `bulla open` could not
    ///
    /// The cluster deletes the ciphertext then, and the writer sees that it arrived. Run it on the machine that opened
    /// the wrap.
    Ack {
        /// The slip
        slip: Slip,
        #[command(flatten)]
        format: FormatArgs,
    },
    /// Tell that what you opened here did not arrive or is bad
    ///
    /// That is final: nobody gets the content any more, and the writer is alarmed. Run it on the machine that opened
    /// the wrap. `bulla open` does it by itself for content that is not what its writer signed.
    Nack {
        /// The slip
        slip: Slip,
        #[command(flatten)]
        format: FormatArgs,
    },
    /// Let a wrap be opened that waits for you after a restore
    Release {
        /// The slip
        slip: Slip,
    },
}

/// Encrypt something to somebody, to be opened once; prints the slip, which names it and is no secret
///
/// The content is encrypted here; the server cannot read it. Give a secret by a file, by KEY=@FILE or on standard
/// input: what stands in an argument is seen by every process of this machine.
#[derive(Debug, Args)]
pub struct Create {
    /// To whom: a name, sha256:… or age1…; may be repeated
    #[arg(long = "to", value_name = "WHO", required = true)]
    to: Vec<String>,
    /// Each of them opens it once; otherwise the first who comes
    #[arg(long)]
    each: bool,
    /// For how long it may be opened, such as 12h or 7d
    #[arg(long, value_name = "TIME", default_value = "7d", value_parser = life)]
    expires: Duration,
    /// Not to be opened before: a time, or one from now such as 2h
    #[arg(long, value_name = "TIME", value_parser = moment)]
    not_before: Option<u64>,
    /// How long whoever opened it may take to store it safely
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = humantime::parse_duration)]
    ack: Duration,
    /// A line for the recipients, which the server can read
    #[arg(long, value_name = "TEXT", value_parser = label)]
    label: Option<String>,
    /// A file, - for standard input, or fields: KEY=VALUE, KEY=@FILE, KEY=-
    #[arg(required = true, value_name = "CONTENT")]
    content: Vec<String>,
    #[command(flatten)]
    format: FormatArgs,
}

fn life(text: &str) -> Result<Duration, String> {
    let life = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    let fits = life >= Duration::from_secs(1) && life.as_millis() <= u128::from(MAX_LIFE_MS);
    if fits { Ok(life) } else { Err("a wrap lives for 1 second to 366 days".into()) }
}

fn label(text: &str) -> Result<String, String> {
    if is_label(text) { Ok(text.to_owned()) } else { Err(format!("a label {LABEL_RULE}")) }
}

pub async fn run(command: Wrap, session: &Session<'_>) -> Result<Exit, Failure> {
    match command {
        Wrap::Create(args) => create(session, args).await,
        Wrap::List(format) => list(session, format).await,
        Wrap::Inspect { slip, format } => inspect(session, &slip, format).await,
        Wrap::Revoke { slip, format } => {
            let client = session.client()?;
            let receipts = client.wrap_revoke(&slip).await;
            answer_receipts(session, &client, &slip, receipts, format).await
        }
        Wrap::Ack { slip, format } => {
            let client = session.client()?;
            let receipts = client.wrap_ack(&slip).await.map(|receipt| vec![receipt]);
            answer_receipts(session, &client, &slip, receipts, format).await
        }
        Wrap::Nack { slip, format } => {
            let client = session.client()?;
            let receipts = client.wrap_nack(&slip).await.map(|receipt| vec![receipt]);
            answer_receipts(session, &client, &slip, receipts, format).await
        }
        Wrap::Release { slip } => {
            session.client()?.wrap_release(&slip).await?;
            session.screen.say("released: it can be opened again");
            Ok(Exit::Ok)
        }
    }
}

async fn create(session: &Session<'_>, args: Create) -> Result<Exit, Failure> {
    let Create { to, each, expires, not_before, ack, label, content, format } = args;
    // A file that is not there is told before the network is asked.
    let source = source(&content)?;
    let client = session.client()?;
    let mut resolved: Vec<Resolved> = Vec::new();
    for who in &to {
        let found = client.resolve(who).await?;
        if resolved.iter().any(|other| other.principal() == found.principal()) {
            return Err(Failure::usage(format!("{} stands twice among --to", found.name())).hint("name each once"));
        }
        resolved.push(found);
    }
    for found in &resolved {
        session.screen.say(&format!("to {} {}", found.name(), found.principal()));
    }
    let outgoing = Outgoing {
        to: resolved,
        mode: if each { Mode::Each } else { Mode::First },
        nbf_ms: not_before.unwrap_or(0),
        life_s: expires.as_secs(),
        ack_s: u32::try_from(ack.as_secs()).unwrap_or(u32::MAX),
        label,
    };
    made(session, &client.wrap_create(outgoing, source).await?, format)
}

/// To whom an answer goes in place of the caller.
#[derive(Debug, clap::Args)]
pub struct WrapTo {
    /// Let the cluster encrypt it to this principal, as a wrap: only the slip is printed, and you see nothing of it
    #[arg(long, value_name = "WHO")]
    wrap_to: Option<String>,
    /// For how long that wrap may be opened, such as 12h or 7d
    #[arg(long, value_name = "TIME", default_value = "7d", value_parser = life, requires = "wrap_to")]
    expires: Duration,
}

impl WrapTo {
    /// The wrap that is to be made, if one is.
    pub async fn outgoing(&self, session: &Session<'_>) -> Result<Option<Outgoing>, Failure> {
        let Some(who) = &self.wrap_to else { return Ok(None) };
        let found = session.client()?.resolve(who).await?;
        session.screen.say(&format!("to {} {}", found.name(), found.principal()));
        Ok(Some(Outgoing::new(vec![found], self.expires.as_secs())))
    }
}

/// Prints the slip of a wrap that was made.
pub fn made(session: &Session<'_>, made: &Wrapped, format: FormatArgs) -> Result<Exit, Failure> {
    if format.format == Format::Json {
        let receipts = vec![made.created.envelope.clone()];
        session.screen.json(&serde_json::json!({
            "slip": made.slip,
            "statement": made.statement,
            "receipts": WrapReceipts { receipts }.receipts,
        }))?;
    } else {
        session.screen.line(&made.slip.to_string())?;
    }
    if session.screen.is_unread() {
        return Err(Failure::new(Exit::Failed, "the wrap was made, but nobody read its slip")
            .hint("`bulla wrap list` shows it"));
    }
    if format.format == Format::Json {
        return Ok(Exit::Ok);
    }
    session.screen.say("to be opened once, with `bulla open SLIP`");
    Ok(Exit::Ok)
}

/// What is to be wrapped: fields if the first argument is one, else a file or standard input.
fn source(words: &[String]) -> Result<Content, Failure> {
    let fields: Vec<Option<Field>> = words.iter().map(|word| Field::parse(word)).collect();
    if fields.iter().all(Option::is_some) {
        let fields: Vec<Field> = fields.into_iter().flatten().collect();
        return Ok(content(json::to_vec(&fields::read(&fields, Limit::WRAP)?)));
    }
    match words {
        [word] if word == "-" => Ok(Box::new(std::io::stdin())),
        [path] => {
            let file = File::open(path).map_err(|error| Failure::file("cannot read", path.as_ref(), &error))?;
            Ok(Box::new(file))
        }
        _ => Err(Failure::usage("a wrap has one content")
            .hint("give one file, or - for standard input, or KEY=… fields only")),
    }
}

async fn list(session: &Session<'_>, FormatArgs { format }: FormatArgs) -> Result<Exit, Failure> {
    let client = session.client()?;
    let (mut all, mut after) = (Vec::new(), None::<String>);
    loop {
        let page = client.wraps(after.as_deref(), Some(PAGE)).await?;
        all.extend(page.wraps);
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    if format == Format::Json {
        return session.screen.json(&Wraps { wraps: all, next: None }).map(|()| Exit::Ok);
    }
    let cluster = client.view().await?.id();
    let mut names = Names::new(&client);
    let mut rows = Vec::with_capacity(all.len());
    for summary in all {
        let WrapSummary { wrap, statement_sha256, from, to, created_ms, exp_ms, mode: _, states, label } = summary;
        let states: Vec<_> = states.iter().map(word).collect();
        // A line holds one name; `wrap inspect` has them all.
        let mut shown = match to.first() {
            Some(first) => names.short(first).await,
            None => String::new(),
        };
        if to.len() > 1 {
            shown.push_str(&format!(" +{}", to.len().saturating_sub(1)));
        }
        rows.push(vec![
            states.join(","),
            names.short(&from).await,
            shown,
            time(created_ms),
            time(exp_ms),
            label.unwrap_or_default(),
            Slip { cluster, wrap, statement_sha256 }.to_string(),
        ]);
    }
    session.screen.table(&["STATE", "FROM", "TO", "CREATED", "EXPIRES", "LABEL", "SLIP"], &rows)?;
    Ok(Exit::Ok)
}

async fn inspect(session: &Session<'_>, slip: &Slip, FormatArgs { format }: FormatArgs) -> Result<Exit, Failure> {
    let client = session.client()?;
    let inspected = client.wrap_inspect(slip).await?;
    if format == Format::Json {
        return session.screen.json(&inspected.view).map(|()| Exit::Ok);
    }
    let Inspected { statement, writer, origin, created, slots, .. } = &inspected;
    let statement = &statement.statement;
    let mut names = Names::new(&client);
    let mut pairs = vec![("from", format!("{} {}", writer.name(), writer.principal()))];
    for addressee in &statement.to {
        pairs.push(("to", names.full(&addressee.principal).await));
    }
    pairs.push((
        "opens for",
        if statement.mode == Mode::Each { "each of them" } else { "the first who comes" }.to_owned(),
    ));
    pairs.push(("created", time(created.receipt.at_ms)));
    if statement.nbf_ms > 0 {
        pairs.push(("not before", time(statement.nbf_ms)));
    }
    pairs.push(("expires", time(statement.exp_ms)));
    pairs.push(("size", format!("{} bytes, encrypted", statement.ct.len)));
    pairs.extend(statement.label.clone().map(|label| ("label", label)));
    pairs.extend(origin.as_ref().map(|origin| ("content", whence(origin))));
    for slot in slots {
        let whose = match &slot.principal {
            Some(principal) => format!(" for {}", names.full(principal).await),
            None => String::new(),
        };
        pairs.push(("state", format!("{}{whose}", word(&slot.state))));
    }
    session.screen.pairs(&pairs)?;
    let receipts: Vec<_> =
        std::iter::once(created).chain(slots.iter().flat_map(|slot| &slot.receipts)).cloned().collect();
    show_receipts(session, &mut names, &receipts).await?;
    Ok(Exit::Ok)
}

/// Where a wrap's content is from, by a node's word.
pub fn whence(VerifiedOrigin { origin, standing }: &VerifiedOrigin) -> String {
    let doubt = if *standing == Standing::Valid { "" } else { ", by a node that is not to be believed" };
    format!("{} of {}, read by the cluster at {}{doubt}", origin.action, origin.resource, time(origin.at_ms))
}

async fn answer_receipts(
    session: &Session<'_>,
    client: &Client,
    slip: &Slip,
    receipts: Result<Vec<VerifiedReceipt>, ClientError>,
    FormatArgs { format }: FormatArgs,
) -> Result<Exit, Failure> {
    let receipts = match receipts {
        Ok(receipts) => receipts,
        Err(error) => return Err(proven(client, slip, error).await),
    };
    if format == Format::Json {
        let receipts = receipts.iter().map(|receipt| receipt.envelope.clone()).collect();
        return session.screen.json(&WrapReceipts { receipts }).map(|()| Exit::Ok);
    }
    show_receipts(session, &mut Names::new(client), &receipts).await?;
    Ok(Exit::Ok)
}

/// A refusal about a wrap, with what its receipt proves: who was first, when and from where.
pub async fn proven(client: &Client, slip: &Slip, error: ClientError) -> Failure {
    let receipts = client.refusal_receipts(slip, &error).await;
    let mut failure = Failure::from(error);
    // The first of them says who came first.
    let Some(receipt) = receipts.first().map(|verified| &verified.receipt) else { return failure };
    let Some(actor) = &receipt.actor else { return failure };
    let (kind, at) = (word(&receipt.kind), time(receipt.at_ms));
    let who = Names::new(client).full(&actor.principal).await;
    let from = actor.address.as_deref().unwrap_or("the server's own machine");
    failure.message = format!("{}; {kind} {at} by {who} with the key {} from {from}", failure.message, actor.key);
    failure
}

/// A table of receipts.
async fn show_receipts(session: &Session<'_>, names: &mut Names, receipts: &[VerifiedReceipt]) -> Result<(), Failure> {
    let mut rows = Vec::with_capacity(receipts.len());
    for verified in receipts {
        let receipt = &verified.receipt;
        let (who, address) = match &receipt.actor {
            Some(actor) => {
                (names.short(&actor.principal).await, actor.address.clone().unwrap_or_else(|| "local".to_owned()))
            }
            None => (String::new(), String::new()),
        };
        rows.push(vec![time(receipt.at_ms), word(&receipt.kind), who, address, standing(verified.standing).to_owned()]);
    }
    session.screen.table(&["TIME", "RECEIPT", "BY", "FROM ADDRESS", "PROOF"], &rows)
}

/// Whether a receipt proves anything.
pub fn standing(standing: Standing) -> &'static str {
    if standing == Standing::Valid { "yes" } else { "not proof" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrap_lives_for_a_year_at_most() {
        assert_eq!(life("7d"), Ok(Duration::from_secs(7 * 86_400)));
        for bad in ["0s", "367d", "long", "-1s"] {
            assert!(life(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_label_is_one_line() {
        assert_eq!(label("for the Käse \u{1f9c0} run"), Ok("for the Käse \u{1f9c0} run".to_owned()));
        assert!(label(&"x".repeat(256)).is_ok() && label(&"x".repeat(257)).is_err());
        for c in
            "\n\r\t\0\u{1b}\u{7f}\u{85}\u{9b}\u{61c}\u{200e}\u{200f}\u{2028}\u{2029}\u{202a}\u{202e}\u{2066}\u{2069}"
                .chars()
        {
            assert!(label(&format!("a{c}b")).is_err(), "{c:?}");
        }
    }

    #[test]
    fn a_content_is_one_thing() {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        assert!(source(&words(&["a=1", "b=2"])).is_ok());
        assert_eq!(source(&words(&["a=1", "file"])).err().map(|failure| failure.exit), Some(Exit::Usage));
        assert_eq!(source(&words(&["/no/such/file"])).err().map(|failure| failure.exit), Some(Exit::Failed));
    }
}
