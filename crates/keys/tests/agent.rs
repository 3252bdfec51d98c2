//! Keys of OpenSSH's own agent, and of one that misbehaves.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails where it stands")]

use bulla_crypto::identity::Identity;
use bulla_crypto::openssh::agent::{AgentKeyError, MAX_MESSAGE_BYTES};
use bulla_crypto::sign::{Algorithm, SignError, Signer as _};
use bulla_keys::agent::AgentKeyName;
use bulla_keys::{Agent, AgentError};
use bulla_testkit::agent::SshAgent;
use bulla_testkit::skip;
use std::ffi::OsStr;
use std::io::{Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

const NEEDS: &str = "needs openssh-client";

fn identity(agent: &SshAgent, name: &str) -> Result<Identity, AgentError> {
    Agent::new(Some(agent.socket().into())).unwrap().identity(&named(name))
}

fn named(name: &str) -> AgentKeyName {
    AgentKeyName::parse(OsStr::new(&format!("ssh-agent:{name}"))).unwrap().unwrap()
}

fn signs(identity: &Identity) -> Result<(), AgentError> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let signature = runtime.block_on(identity.sign(b"message")).map_err(|error| {
        let SignError::Holder(cause) = error else { panic!("{error}") };
        *cause.downcast::<AgentError>().unwrap()
    })?;
    assert!(identity.public_key().verify(b"message", &signature).is_ok());
    Ok(())
}

#[test]
fn keys_of_every_kind_sign_or_say_why_not() {
    let Some(agent) = SshAgent::new() else { skip!("keys_of_every_kind_sign_or_say_why_not", "{NEEDS}") };
    let kinds = [
        ("ed25519", Algorithm::Ed25519, 3),
        // One number in 256 is short, and is to be padded.
        ("ecdsa -b 256", Algorithm::EcdsaP256, 400),
        ("ecdsa -b 384", Algorithm::EcdsaP384, 400),
    ];
    for (number, (kind, algorithm, times)) in kinds.into_iter().enumerate() {
        let path = agent.key(&number.to_string(), kind);
        let own = identity(&agent, &agent.fingerprint(&path)).unwrap();
        assert_eq!(own.public_key().algorithm(), algorithm);
        assert!(own.recipients().is_empty() && !own.dual_use() && own.signing_key().is_none());
        for _ in 0..times {
            signs(&own).unwrap();
        }
        let by_file = identity(&agent, path.with_extension("pub").to_str().unwrap()).unwrap();
        assert_eq!(by_file.public_key(), own.public_key());
    }
    let rsa = agent.key("rsa", "rsa -b 3072");
    let refused = identity(&agent, &agent.fingerprint(&rsa)).unwrap_err();
    assert!(matches!(refused, AgentError::Unusable { cause: AgentKeyError::Rsa, .. }), "{refused}");
    let p521 = agent.key("p521", "ecdsa -b 521");
    let refused = identity(&agent, &agent.fingerprint(&p521)).unwrap_err();
    assert!(refused.to_string().contains("kind ecdsa-sha2-nistp521"), "{refused}");
}

#[test]
fn the_only_key_needs_no_name() {
    let Some(mut agent) = SshAgent::new() else { skip!("the_only_key_needs_no_name", "{NEEDS}") };
    assert!(matches!(Agent::new(None), Err(AgentError::NoSocket)));
    assert!(matches!(Agent::new(Some("".into())), Err(AgentError::NoSocket)));
    assert!(matches!(identity(&agent, ""), Err(AgentError::Empty)));
    let rsa = agent.key("rsa", "rsa -b 2048");
    assert!(matches!(identity(&agent, ""), Err(AgentError::Unusable { cause: AgentKeyError::Rsa, .. })));
    agent.key("p521", "ecdsa -b 521");
    assert!(matches!(identity(&agent, ""), Err(AgentError::NoneUsable { there }) if there.len() == 2));
    agent.key("one", "ed25519");
    signs(&identity(&agent, "").unwrap()).unwrap();
    agent.key("two", "ed25519");
    assert!(matches!(identity(&agent, ""), Err(AgentError::Several { there }) if there.len() == 2));
    let absent = agent.pair("absent", "ed25519");
    let told = identity(&agent, &format!("{}.pub", absent.display())).unwrap_err();
    assert!(matches!(&told, AgentError::NoKey { there, .. } if there.len() == 4), "{told}");
    assert!(told.to_string().contains(&agent.fingerprint(&rsa)), "{told}");
    assert!(matches!(identity(&agent, absent.to_str().unwrap()), Err(AgentError::NotPublic { .. })));
    assert!(matches!(identity(&agent, "/nonexistent.pub"), Err(AgentError::File { .. })));
    agent.kill();
    assert!(matches!(identity(&agent, ""), Err(AgentError::Unreachable { .. })));
}

#[test]
fn a_key_may_go_and_come_back() {
    let Some(mut agent) = SshAgent::new() else { skip!("a_key_may_go_and_come_back", "{NEEDS}") };
    let key = agent.key("own", "ed25519");
    let own = identity(&agent, "").unwrap();
    signs(&own).unwrap();
    agent.add([OsStr::new("-d"), key.as_os_str()]);
    assert!(matches!(signs(&own), Err(AgentError::Gone { .. })));
    agent.add([&key]);
    signs(&own).unwrap();
    agent.add(["-x"]);
    assert!(matches!(signs(&own), Err(AgentError::Gone { .. })));
    assert!(matches!(identity(&agent, ""), Err(AgentError::Empty)));
    agent.add(["-X"]);
    signs(&own).unwrap();
    agent.kill();
    assert!(matches!(signs(&own), Err(AgentError::Unreachable { .. })));
    agent.restart();
    assert!(matches!(signs(&own), Err(AgentError::Gone { .. })));
    agent.add([&key]);
    signs(&own).unwrap();
}

#[test]
fn a_person_confirms() {
    let Some(agent) = SshAgent::new() else { skip!("a_person_confirms", "{NEEDS}") };
    let key = agent.pair("own", "ed25519");
    agent.add([OsStr::new("-c"), key.as_os_str()]);
    let own = identity(&agent, "").unwrap();
    let refused = signs(&own).unwrap_err();
    assert!(matches!(refused, AgentError::Refused { .. }) && refused.hint().contains("confirm"), "{refused}");
    std::fs::write(agent.folder().join("confirms"), b"").unwrap();
    signs(&own).unwrap();
}

/// An agent that shows the keys of a real one, and answers requests for signatures with these bytes.
fn liar(real: &SshAgent, path: &Path, answer: impl Fn(&[u8]) -> Vec<u8> + Send + 'static) {
    let (listener, real) = (UnixListener::bind(path).unwrap(), real.socket());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let request = message(&mut stream);
            let mut forward = UnixStream::connect(&real).unwrap();
            forward.write_all(&request).unwrap();
            let honest = message(&mut forward);
            let lie = if request.get(4) == Some(&11) { honest } else { answer(&honest) };
            // Whoever does not like an answer hangs up.
            drop(stream.write_all(&lie));
        }
    });
}

fn message(stream: &mut UnixStream) -> Vec<u8> {
    let mut length = [0; 4];
    stream.read_exact(&mut length).unwrap();
    let mut body = vec![0; u32::from_be_bytes(length) as usize];
    stream.read_exact(&mut body).unwrap();
    [&length[..], &body].concat()
}

#[test]
fn lies_of_an_agent_go_no_further() {
    let Some(agent) = SshAgent::new() else { skip!("lies_of_an_agent_go_no_further", "{NEEDS}") };
    agent.key("own", "ed25519");
    let folder = tempfile::tempdir().unwrap();
    let mut number = 0;
    let mut told = |answer: fn(&[u8]) -> Vec<u8>| {
        number += 1;
        let path = folder.path().join(number.to_string());
        liar(&agent, &path, answer);
        let lying = Agent::new(Some(path.into())).unwrap().limit(Duration::from_millis(500));
        let started = Instant::now();
        let error = signs(&lying.identity(&named("")).unwrap()).unwrap_err();
        assert!(started.elapsed() < Duration::from_secs(20));
        error
    };
    let changed = told(|honest| {
        let mut lie = honest.to_vec();
        *lie.last_mut().unwrap() ^= 1;
        lie
    });
    assert!(changed.to_string().contains("does not verify"), "{changed}");
    let long = told(|_| u32::try_from(MAX_MESSAGE_BYTES + 1).unwrap().to_be_bytes().to_vec());
    assert!(long.to_string().contains("too long"), "{long}");
    let other = told(|_| vec![0, 0, 0, 1, 6]);
    assert!(other.to_string().contains("something else"), "{other}");
    let empty = told(|_| vec![0, 0, 0, 0]);
    assert!(empty.to_string().contains("something else"), "{empty}");
    assert!(matches!(told(|honest| honest[..honest.len() - 1].to_vec()), AgentError::Io(_)));
    assert!(matches!(told(|_| Vec::new()), AgentError::Io(_)));
    let hangs = told(|_| {
        std::thread::sleep(Duration::from_secs(30));
        Vec::new()
    });
    assert!(matches!(hangs, AgentError::TimedOut { .. }), "{hangs}");
}
