//! What is typed, for each command: it ends the command's help and stands in its manual page.
//!
//! `$SLIP` is what `bulla wrap create` printed, `$CLUSTER` the cluster's id, `$LINEAGE` that of its history, `$SIGNATURE`
//! what `bulla transit sign` printed, `$LEASE` a lease's id.

use clap::Command;

const EXAMPLES: &[&str] = &[
    "bulla demo --pause",
    "bulla keygen -o alice.key",
    "bulla keygen --from ~/.ssh/id_ed25519 --name alice",
    "bulla certificate -o alice.pem --identity alice.key",
    "bulla keygen --pkcs11 'pkcs11:token=ops;object=ann?module-name=softhsm2' --name ann",
    "bulla server --data /var/lib/bulla --listen 0.0.0.0:8250 --admin alice.pub",
    "bulla server --config /etc/bulla/server.toml",
    "bulla server check --config /etc/bulla/server.toml",
    "bulla server sample > server.toml",
    "bulla context add prod https://bulla.example:8250 --cluster $CLUSTER --identity alice.key",
    "bulla context add test https://bulla.example:8250 --admin alice.pub --admin erin.pub -k 2",
    "bulla context list",
    "bulla context use prod",
    "bulla context show prod -o json",
    "bulla context accept-loss --lineage $LINEAGE",
    "bulla context remove prod",
    "bulla init --name prod -k 2 --admin a.pub --admin b.pub --admin c.pub --ready-file ready.json",
    "bulla init --name test --admin alice.pub --socket /var/lib/bulla/bulla.sock --save-context test",
    "bulla unseal --identity alice.key",
    "bulla seal",
    "bulla seal status",
    "bulla seal check --identity alice.key",
    "bulla seal confirm-clock",
    "bulla seal consent sign consent.json",
    "bulla seal consent send consent.json",
    "bulla status --addr https://bulla.example:8250",
    "bulla doctor",
    "bulla doctor --server --config /etc/bulla/server.toml",
    "bulla whoami --identity alice.key",
    "bulla principal add bob.pub --group dev --attribute team=red",
    "bulla principal show bob",
    "bulla principal list",
    "bulla principal groups bob dev oncall",
    "bulla principal disable bob",
    "bulla principal enable bob",
    "bulla principal rotate new.key -o next.pub",
    "bulla enroller add bob",
    "bulla enroller remove bob",
    "bulla enroller list",
    "bulla document show",
    "bulla document propose --add-enroller bob -o document.json",
    "bulla document propose --remove-admin ben --add-admin dan.pub -o document.json",
    "bulla document sign document.json --identity alice.key",
    "bulla document submit document.json",
    "bulla wrap create --to bob letter.txt",
    "bulla wrap create --to bob --expires 12h user=app password=@password.txt",
    "bulla wrap list",
    "bulla wrap inspect $SLIP",
    "bulla wrap revoke $SLIP",
    "bulla wrap ack $SLIP",
    "bulla wrap nack $SLIP",
    "bulla wrap release $SLIP",
    "bulla open $SLIP -o letter.txt",
    "bulla open $SLIP --field password",
    "bulla receipt save $SLIP -o proof.json",
    "bulla receipt verify proof.json",
    "bulla snapshot save /backup/prod.snapshot --identity backup.key",
    "bulla snapshot verify /backup/prod.snapshot --cluster $CLUSTER",
    "bulla snapshot restore /backup/prod.snapshot --data /var/lib/bulla --cluster $CLUSTER",
    "bulla kv put app/prod/db user=app password=@password.txt",
    "bulla kv put app/prod/db password=- < password.txt",
    "bulla kv put app/prod/tls --file key.der --ttl 720h",
    "bulla kv put app/prod/root --to alice --to bob password=@password.txt",
    "bulla kv share app/prod/root --to alice --to carol",
    "bulla kv patch app/prod/db password=@password.txt --cas 1",
    "bulla kv get app/prod/db --field password",
    "bulla kv get app/prod/db --version 1 -o json",
    "bulla run --env DB_PASSWORD=kv/app/prod/db#password -- ./server --port 80",
    "bulla template app.conf.tmpl -o app.conf",
    "bulla agent --config /etc/bulla/agent.toml",
    "bulla agent check --config /etc/bulla/agent.toml",
    "bulla agent sample > agent.toml",
    "bulla kms serve --config /etc/bulla-kms/kms.toml",
    "bulla kms alive /run/bulla-kms/kms.sock",
    "bulla kms check --config /etc/bulla-kms/kms.toml",
    "bulla kms verify --config /etc/bulla-kms/kms.toml",
    "bulla kms doctor --config /etc/bulla-kms/kms.toml --encryption-config encryption.yaml",
    "bulla kms rotate plan --config /etc/bulla-kms/kms.toml",
    "bulla kms rotate status --config kms.toml --metrics node1.metrics node2.metrics node3.metrics",
    "bulla kms rotate status --config kms.toml --metrics node1.metrics --old $HASH --apiservers 1",
    "bulla kms migrate from-kleidi /opt/kleidi/config.json --kubernetes prod --to translated",
    "bulla kms migrate from-trousseau old.yaml --kubernetes prod --old-name vault --to translated",
    "bulla kms sample > kms.toml",
    "bulla kms keyfile create keys.age --node cp1=cp1.pub --node cp2=cp2.pub --node safe=safe.pub",
    "bulla kms keyfile show keys.age --identity cp1.key",
    "bulla kms keyfile show keys.age --identity cp1.key -o json",
    "bulla kms keyfile enrol keys.age --node cp3=cp3.pub --identity cp1.key",
    "bulla kms keyfile remove keys.age cp2 --identity cp1.key",
    "bulla kms keyfile rotate keys.age --begins 1h --identity cp1.key",
    "bulla kms keyfile drop keys.age --before 2 --identity cp1.key",
    "bulla kms bind -o cp1.bound --to 'pkcs11:token=tpm;object=node?module-name=tpm2_pkcs11'",
    "bulla kms bind -o unsealer.key --config unseal-kms.toml",
    "bulla kms rebind unsealer.key --config unseal-kms.toml",
    "bulla kms keygen 'pkcs11:token=kms;object=k8s?module-name=softhsm2'",
    "bulla kv get app/prod/db --wrap-to bob --expires 1h",
    "bulla kv list app/prod",
    "bulla kv list --recursive app",
    "bulla kv history app/prod/db",
    "bulla kv watch app/prod/db --once",
    "bulla kv diff app/prod/db --from 1 --to 2",
    "bulla kv rollback app/prod/db --version 1",
    "bulla kv delete app/prod/db",
    "bulla kv undelete app/prod/db --version 3",
    "bulla kv destroy app/prod/db --version 1",
    "bulla kv destroy app/prod/db --all",
    "bulla kv metadata get app/prod/db",
    "bulla kv metadata set app/prod/db --max-versions 20 --cas-required true --custom owner=team-red",
    "bulla transit create orders",
    "bulla transit create release --kind ed25519",
    "bulla transit import legacy --kind rsa-3072 legacy.pem",
    "bulla transit read release --public-key > release.pem",
    "bulla transit list",
    "bulla transit rotate orders",
    "bulla transit configure orders --min-decryption-version 2",
    "bulla transit delete orders",
    "bulla transit encrypt orders card.txt > card.bulla",
    "bulla transit decrypt orders < card.bulla",
    "bulla transit rewrap orders < ciphertexts.txt",
    "bulla transit datakey orders --wrapped",
    "bulla transit sign release app.tar",
    "bulla transit verify release $SIGNATURE app.tar",
    "bulla transit hmac hooks body.json",
    "bulla transit export orders -o orders.bin",
    "bulla transit backup orders -o orders.age",
    "bulla transit restore orders orders.age",
    "bulla encrypt orders dump.sql -o dump.sql.age",
    "bulla decrypt dump.sql.age -o dump.sql",
    "bulla database configure app --engine postgres --host db.example --user bulla password=-",
    "bulla database read app",
    "bulla database list",
    "bulla database delete app",
    "bulla database release app",
    "bulla database rotate-root app",
    "bulla database role put app reader --creation @reader.sql --ttl 1h --max-ttl 24h",
    "bulla database role read app reader",
    "bulla database role list app",
    "bulla database role delete app reader",
    "bulla database creds app reader --ttl 30m",
    "bulla database creds app reader --wrap-to bob --expires 10m",
    "bulla database ca app",
    "bulla database role put app cert --certificate --creation @cert.sql",
    "bulla database creds app cert --certificate ./tls",
    "bulla database static put app billing --user billing --rotate-every 24h",
    "bulla database static get app billing",
    "bulla database static list app",
    "bulla database static creds app billing",
    "bulla database static rotate app billing",
    "bulla database static delete app billing",
    "bulla lease list",
    "bulla lease list --all --resource database/app",
    "bulla lease show $LEASE",
    "bulla lease renew $LEASE --ttl 1h",
    "bulla lease revoke $LEASE",
    "bulla lease revoke --resource database/app/reader",
    "bulla lease stuck",
    "bulla import vault https://vault.example:8200",
    "bulla import vault https://vault.example:8200 --kv secret/app --to apps --dry-run",
    "bulla import vault https://vault.example:8200 --kv secret --transit transit --policies drafts",
    "bulla policy put dev dev.cedar",
    "bulla policy get dev",
    "bulla policy list",
    "bulla policy delete dev",
    "bulla policy check bob kv.get kv/app/prod/db",
    "bulla policy explain 01hzx3v9e8k2q7d5",
    "bulla policy recover sign set.json approval.json",
    "bulla policy recover submit set.json approval.json",
    "bulla bundle create plan.toml -o bundle.json",
    "bulla bundle sign bundle.json --identity erin.key",
    "bulla bundle show bundle.json",
    "bulla bundle verify bundle.json --admin alice.pub --admin erin.pub -k 2",
    "bulla audit show kv/app/prod/db --principal bob",
    "bulla audit verify --file /var/lib/bulla/audit --whole",
    "bulla alarms --seen",
    "bulla curl GET /v1/whoami",
    "bulla curl POST /v1/policy:check -d @question.json",
    "bulla openapi > openapi.json",
    "bulla completions bash > /etc/bash_completion.d/bulla",
    "bulla man /usr/local/share/man/man1",
    "bulla version",
];

/// Ends the help of each command with its examples.
pub fn add_to(program: Command) -> Command {
    let rests = EXAMPLES.iter().filter_map(|line| Some((*line, line.strip_prefix("bulla")?))).collect();
    illustrated(program, rests)
}

/// The examples of a command and those below it, each with what stands after the command's name.
fn illustrated(mut command: Command, mut rests: Vec<(&'static str, &'static str)>) -> Command {
    let verbs: Vec<String> = command.get_subcommands().map(|verb| verb.get_name().to_owned()).collect();
    for verb in verbs {
        let after_verb = |rest: &'static str| {
            let rest = rest.strip_prefix(' ')?.strip_prefix(verb.as_str())?;
            (rest.is_empty() || rest.starts_with(' ')).then_some(rest)
        };
        let below = rests.iter().filter_map(|(line, rest)| Some((*line, after_verb(rest)?))).collect();
        rests.retain(|(_, rest)| after_verb(rest).is_none());
        command = command.mut_subcommand(verb, |verb| illustrated(verb, below));
    }
    let heading = match rests.len() {
        0 => return command,
        1 => "Example:",
        _ => "Examples:",
    };
    let lines: String = rests.iter().map(|(line, _)| format!("\n  $ {line}")).collect();
    command.after_help(format!("{heading}{lines}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{self, Arguments};
    use clap::FromArgMatches as _;

    /// The words of an example as a shell hands them over.
    fn words(line: &str) -> Vec<String> {
        let id = "A".repeat(43);
        let slip = format!("bulla:wrap:{id}:{}:{id}", "a".repeat(26));
        let line =
            line.split([" < ", " > "].iter().find(|mark| line.contains(**mark)).unwrap_or(&"\n")).next().unwrap();
        line.replace("$SLIP", &slip)
            .replace("$LEASE", &"a".repeat(26))
            .replace("$LINEAGE", "AAAAAAAAAAAAAAAAAAAAAA")
            .replace("$CLUSTER", &format!("sha256:{id}"))
            .split(' ')
            .map(str::to_owned)
            .collect()
    }

    #[test]
    fn every_example_is_a_command_line() {
        for line in EXAMPLES {
            assert!(line.len() <= 96, "help is 100 columns wide: {line}");
            let matches = cli::program().try_get_matches_from(words(line));
            let parsed = matches.and_then(|matches| Arguments::from_arg_matches(&matches));
            assert!(parsed.is_ok(), "{line}: {}", parsed.err().map(|error| error.to_string()).unwrap_or_default());
        }
    }

    #[test]
    fn every_command_that_can_run_has_an_example_of_its_own() {
        let mut shown = 0;
        for (name, command) in cli::all() {
            let examples: Vec<_> = EXAMPLES.iter().filter(|line| line.starts_with(&name)).collect();
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            shown += help.matches("\n  $ bulla").count();
            let runs = !command.is_subcommand_required_set();
            assert_eq!(runs, !help.is_empty(), "{name} {examples:?}");
            assert!(help.lines().skip(1).all(|line| line.starts_with(&format!("  $ {name}"))), "{name}: {help}");
        }
        assert_eq!(shown, EXAMPLES.len(), "each stands under one command");
    }
}
