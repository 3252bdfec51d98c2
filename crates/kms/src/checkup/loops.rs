//! Whether a member can be reached only through the cluster that it unlocks. kube-apiserver then reads no Secret before the
//! member answers, and the member does not answer before kube-apiserver reads Secrets: after a full stop neither starts.

use crate::finding::{Finding, Verdict};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// Folders in which a cluster puts tokens of its own ServiceAccounts.
const TOKENS: &[&str] = &[
    "/run/secrets/kubernetes.io",
    "/run/secrets/eks.amazonaws.com",
    "/run/secrets/pods.eks.amazonaws.com",
    "/run/secrets/azure/tokens",
];
/// Ranges of Services where nobody chose another: of kubeadm, and of k3s and RKE2.
const USUAL: &[&str] = &["10.96.0.0/12", "10.43.0.0/16"];
/// Names of the cluster itself.
const ITSELF: &[&str] = &["kubernetes", "kubernetes.default"];

/// A range of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cidr {
    net: IpAddr,
    bits: u32,
}

impl FromStr for Cidr {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const EXPECTED: &str = "expected a range of addresses, such as 10.96.0.0/12";
        let (net, bits) = text.split_once('/').ok_or(EXPECTED)?;
        let (net, bits): (IpAddr, u32) = (net.parse().map_err(|_| EXPECTED)?, bits.parse().map_err(|_| EXPECTED)?);
        if bits == 0 || bits > if net.is_ipv4() { 32 } else { 128 } {
            return Err(EXPECTED);
        }
        Ok(Self { net, bits })
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.net, self.bits)
    }
}

impl Cidr {
    /// Whether an address is in it.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.net, address.to_canonical()) {
            (IpAddr::V4(net), IpAddr::V4(address)) => {
                let mask = u32::MAX.checked_shl(32_u32.saturating_sub(self.bits)).unwrap_or(0);
                net.to_bits() & mask == address.to_bits() & mask
            }
            (IpAddr::V6(net), IpAddr::V6(address)) => {
                let mask = u128::MAX.checked_shl(128_u32.saturating_sub(self.bits)).unwrap_or(0);
                net.to_bits() & mask == address.to_bits() & mask
            }
            _ => false,
        }
    }
}

/// The network of the cluster that the plugin serves.
#[derive(Debug, Clone)]
pub struct Network {
    /// Ranges of its Services; none if they are not known.
    pub services: Vec<Cidr>,
    /// The end of its names.
    pub domain: String,
}

/// The hosts that members name, each with the field.
pub fn hosts(config: &Value) -> Vec<(String, String)> {
    leaves(config).into_iter().filter_map(|(field, text)| Some((field, host(&text)?))).collect()
}

/// Every loop in the members. `resolved` is what names resolve to on this node.
pub fn judge(config: &Value, network: &Network, resolved: &BTreeMap<String, Vec<IpAddr>>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (field, text) in leaves(config) {
        if let Some(folder) = TOKENS.iter().find(|folder| text.contains(*folder)) {
            let found =
                format!("{field}: below {folder} are tokens that this cluster gives out, and only when it runs");
            findings.push(Finding::fail(
                "loop",
                found,
                "use a credential that lies on the node: a certificate, a file",
            ));
        }
        if let Some(host) = host(&text) {
            let addresses = resolved.get(&host).map(Vec::as_slice).unwrap_or_default();
            findings.extend(address(&field, &host, addresses, network));
        }
        if field.ends_with(".vault.auth.kubernetes.file") {
            let found =
                format!("{field}: Vault shows this token to a cluster, which must not be the one that is served");
            let hint = "if it is the same, log in by certificate, JWT or AppRole";
            findings.push(Finding::warn("loop", found, hint));
        }
    }
    if findings.iter().all(|finding| finding.verdict == Verdict::Ok) {
        findings.push(Finding::ok("loop", "no member is seen to be behind the cluster that it unlocks"));
    }
    findings
}

fn address(field: &str, host: &str, resolved: &[IpAddr], network: &Network) -> Option<Finding> {
    const HINT: &str = "use an address outside the cluster, or a member on the node beside it in policy degraded";
    let domain = network.domain.trim_matches('.').to_ascii_lowercase();
    let name = host.trim_end_matches('.').to_ascii_lowercase();
    let ends = |suffix: &str| name.strip_suffix(suffix).is_some_and(|rest| rest.ends_with('.'));
    if ITSELF.contains(&name.as_str()) || ends("svc") || (!domain.is_empty() && ends(&domain)) {
        let found = format!("{field}: {host} is a name of the cluster's DNS, which is not there before kube-apiserver");
        return Some(Finding::fail("loop", found, HINT));
    }
    let own: Vec<IpAddr> = host.trim_matches(['[', ']']).parse().into_iter().chain(resolved.iter().copied()).collect();
    let within = |range: &Cidr| own.iter().any(|address| range.contains(*address));
    if let Some(range) = network.services.iter().find(|range| within(range)) {
        let found = format!("{field}: {host} is in {range}, the range of the cluster's Services");
        return Some(Finding::fail("loop", found, HINT));
    }
    let usual = USUAL.iter().filter_map(|range| range.parse::<Cidr>().ok()).find(within);
    usual.filter(|_| network.services.is_empty()).map(|range| {
        let found = format!("{field}: {host} is in {range}, where Services usually are");
        Finding::warn("loop", found, "give --service-cidr RANGE, of kube-apiserver's --service-cluster-ip-range")
    })
}

/// Every text below `members`, with its field.
fn leaves(config: &Value) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut open: Vec<(String, &Value)> =
        config.get("members").map(|members| ("members".to_owned(), members)).into_iter().collect();
    while let Some((field, value)) = open.pop() {
        match value {
            // An address of Bulla may be written without its scheme.
            Value::String(text) if field.ends_with(".bulla.address") && !text.contains("://") => {
                found.push((field, format!("https://{text}")));
            }
            Value::String(text) => found.push((field, text.clone())),
            Value::Array(list) => open.extend(list.iter().map(|value| (field.clone(), value))),
            Value::Object(table) => {
                open.extend(table.iter().map(|(name, value)| (format!("{field}.{name}"), value)));
            }
            _ => {}
        }
    }
    found.sort();
    found
}

/// The host of a URL.
fn host(text: &str) -> Option<String> {
    let (_, rest) = text.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next()?;
    let authority = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let bracketed = authority.find(']').and_then(|end| authority.get(..=end));
    let host = bracketed.unwrap_or_else(|| authority.split(':').next().unwrap_or_default());
    (!host.is_empty()).then(|| host.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn judged(field: &str, value: &Value, services: &[&str]) -> Vec<Verdict> {
        let config = json!({"members": {"m": {"vault": {field: value}}}});
        let services = services.iter().map(|range| range.parse().unwrap()).collect();
        let resolved = BTreeMap::from([("inside.example".to_owned(), vec!["10.96.3.4".parse().unwrap()])]);
        let findings = judge(&config, &Network { services, domain: "cluster.local".into() }, &resolved);
        findings.iter().map(|finding| finding.verdict).collect()
    }

    #[test]
    fn loops_are_errors() {
        use Verdict::{Fail, Ok, Warn};
        for (address, services, wanted) in [
            ("https://vault.example:8200", &[][..], Ok),
            ("https://vault", &[], Ok),
            ("https://vault.vault.svc:8200", &[], Fail),
            ("https://vault.vault.svc.cluster.local.:8200", &[], Fail),
            ("https://Vault.VAULT.SVC", &[], Fail),
            ("https://kubernetes.default", &[], Fail),
            ("https://kubernetes", &[], Fail),
            ("https://vault.Cluster.Local", &[], Fail),
            ("https://user@vault.vault.svc:8200", &[], Fail),
            ("https://notcluster.local", &[], Ok),
            ("https://notsvc", &[], Ok),
            ("https://10.96.0.10:8200", &[], Warn),
            ("https://10.43.1.1", &[], Warn),
            ("https://10.96.0.10:8200", &["10.96.0.0/12"], Fail),
            ("https://10.96.0.10:8200", &["172.16.0.0/16"], Ok),
            ("https://[fd00::5]:8200", &["fd00::/108"], Fail),
            ("https://[fd00::1:0:5]:8200", &["fd00::/108"], Ok),
            ("https://inside.example", &["10.96.0.0/16"], Fail),
        ] {
            assert_eq!(judged("address", &address.into(), services), [wanted], "{address}");
        }
        for path in [
            "/var/run/secrets/kubernetes.io/serviceaccount/token",
            "/run/secrets/eks.amazonaws.com/serviceaccount/token",
            "/var/run/secrets/pods.eks.amazonaws.com/serviceaccount/eks-pod-identity-token",
            "/var/run/secrets/azure/tokens/azure-identity-token",
        ] {
            assert_eq!(judged("token_file", &path.into(), &[]), [Fail], "{path}");
        }
        let uri = "pkcs11:token=t?pin-source=file:/var/run/secrets/kubernetes.io/pin";
        assert_eq!(judged("also", &json!([uri]), &[]), [Fail]);
        assert_eq!(judged("auth", &json!({"kubernetes": {"file": "/etc/token", "role": "r"}}), &[]), [Warn]);
    }

    /// A name of the DNS is the same in any case, and what was given for `--cluster-domain` with it.
    #[test]
    fn a_domain_is_compared_without_case() {
        let config = json!({"members": {"m": {"bulla": {"address": "bulla.bulla.K8s.Example:8250"}}}});
        for domain in ["K8s.example", ".k8s.EXAMPLE."] {
            let network = Network { services: Vec::new(), domain: domain.into() };
            let findings = judge(&config, &network, &BTreeMap::new());
            assert_eq!(findings.iter().map(|one| one.verdict).collect::<Vec<_>>(), [Verdict::Fail], "{domain}");
        }
    }

    #[test]
    fn ranges_have_one_form() {
        for bad in ["", "10.0.0.0", "10.0.0.0/0", "10.0.0.0/33", "x/8", "fd00::/129"] {
            assert!(bad.parse::<Cidr>().is_err(), "{bad}");
        }
        let all = "10.1.2.3/32".parse::<Cidr>().unwrap();
        assert!(all.contains("10.1.2.3".parse().unwrap()) && !all.contains("10.1.2.2".parse().unwrap()));
        assert!("10.0.0.0/8".parse::<Cidr>().unwrap().contains("::ffff:10.9.9.9".parse().unwrap()));
    }

    #[test]
    fn hosts_are_found() {
        let config = json!({"members": {"m": {"bulla": {"address": "https://[::1]:9/x", "key": "k"}}}});
        assert_eq!(hosts(&config), [("members.m.bulla.address".to_owned(), "[::1]".to_owned())]);
    }
}
