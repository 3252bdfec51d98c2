//! What the metrics of one kube-apiserver say of key ids: the text that `kubectl get --raw /metrics` prints, of which a
//! few series are read, strictly. All others are passed over.

use std::collections::BTreeMap;

/// Largest file in bytes. That of a large cluster has some ten megabytes.
pub const MAX_BYTES: u64 = 128 * 1024 * 1024;
/// kube-apiserver keeps some hundred key ids at most.
const MAX_SERIES: usize = 10_000;
const LAST: &str = "apiserver_envelope_encryption_key_id_hash_last_timestamp_seconds";
const STATUS: &str = "apiserver_envelope_encryption_key_id_hash_status_last_timestamp_seconds";
const STARTED: &str = "process_start_time_seconds";

/// What one kube-apiserver says of one provider, each by the hash of a key id, in Unix seconds.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct OfProvider {
    /// When it was last told the key id.
    pub told: BTreeMap<String, f64>,
    /// When it last wrote something under it.
    pub written: BTreeMap<String, f64>,
    /// When it last read something under it from etcd.
    pub read: BTreeMap<String, f64>,
}

impl OfProvider {
    /// The key id that it was told last, and when.
    pub fn newest(&self) -> Option<(&str, f64)> {
        let newest = self.told.iter().max_by(|one, other| one.1.total_cmp(other.1));
        newest.map(|(hash, at)| (hash.as_str(), *at))
    }
}

/// What one kube-apiserver says.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Apiserver {
    /// The hash of its id; kube-apiservers before 1.29 tell none.
    pub id: Option<String>,
    /// When it began, in Unix seconds.
    pub started: Option<f64>,
    /// By name of the provider.
    pub providers: BTreeMap<String, OfProvider>,
}

impl Apiserver {
    /// Reads the text.
    ///
    /// # Errors
    /// In which line it is not as kube-apiserver writes it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut read = Self::default();
        let mut series = 0_usize;
        for (place, line) in text.lines().enumerate() {
            let end = line.find(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != ':').unwrap_or(line.len());
            let (name, rest) = line.split_at(end);
            if ![LAST, STATUS, STARTED].contains(&name) {
                continue;
            }
            series = series.saturating_add(1);
            let wrong = |what: &str| format!("line {}: {name}: {what}", place.saturating_add(1));
            if series > MAX_SERIES {
                return Err(wrong("more series than a kube-apiserver has"));
            }
            let (labels, value) = sample(rest).ok_or_else(|| wrong("no sample of Prometheus' text format"))?;
            read.take(name, labels, value).map_err(wrong)?;
        }
        if read.providers.is_empty() {
            return Err("no key id of KMS v2 stands in it; is it what `kubectl get --raw /metrics` prints of a \
                        kube-apiserver that has such a provider?"
                .to_owned());
        }
        Ok(read)
    }

    fn take(&mut self, name: &str, mut labels: BTreeMap<String, String>, value: f64) -> Result<(), &'static str> {
        if name == STARTED {
            return if self.started.replace(value).is_some() { Err("stands twice; one file for each") } else { Ok(()) };
        }
        let mut label = |name: &str| labels.remove(name);
        let id = label("apiserver_id_hash").filter(|id| !id.is_empty());
        match (&self.id, id) {
            (Some(known), Some(id)) if *known != id => return Err("of two kube-apiservers; give one file for each"),
            (None, Some(id)) => self.id = Some(id),
            _ => {}
        }
        let provider = label("provider_name").ok_or("no label provider_name")?;
        let hash = label("key_id_hash").ok_or("no label key_id_hash")?;
        if !is_hash(&hash) {
            return Err("key_id_hash is no sha256: and 64 hexadecimal digits");
        }
        let of = self.providers.entry(provider).or_default();
        let map = match (name, label("transformation_type").as_deref()) {
            (STATUS, None) => &mut of.told,
            (LAST, Some("to_storage")) => &mut of.written,
            (LAST, Some("from_storage")) => &mut of.read,
            _ => return Err("transformation_type is none that is known"),
        };
        if map.insert(hash, value).is_some() { Err("stands twice; one file for each kube-apiserver") } else { Ok(()) }
    }
}

/// Whether it is the hash of a key id, as kube-apiserver and `bulla kms verify` print it.
pub fn is_hash(text: &str) -> bool {
    let digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    text.strip_prefix("sha256:").is_some_and(|digits| digits.len() == 64 && digits.bytes().all(digit))
}

/// Labels and the value of a sample: what stands after its name.
fn sample(rest: &str) -> Option<(BTreeMap<String, String>, f64)> {
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(rest) => labels(rest)?,
        None => (BTreeMap::new(), rest),
    };
    let mut words = rest.strip_prefix(' ')?.split(' ');
    let value: f64 = words.next()?.parse().ok()?;
    let stamp = words.next().is_none_or(|stamp| stamp.parse::<i64>().is_ok());
    (value.is_finite() && value >= 0.0 && stamp && words.next().is_none()).then_some((labels, value))
}

fn labels(mut rest: &str) -> Option<(BTreeMap<String, String>, &str)> {
    let mut found = BTreeMap::new();
    loop {
        if let Some(after) = rest.strip_prefix('}') {
            return Some((found, after));
        }
        let (name, after) = rest.split_once("=\"")?;
        let (value, after) = quoted(after)?;
        if found.insert(name.to_owned(), value).is_some() {
            return None;
        }
        rest = after.strip_prefix(',').unwrap_or(after);
        if rest == after && !rest.starts_with('}') {
            return None;
        }
    }
}

/// A value up to its closing quote, and what stands after that.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.chars();
    loop {
        match chars.next()? {
            '"' => return Some((value, chars.as_str())),
            '\\' => value.push(match chars.next()? {
                'n' => '\n',
                escaped @ ('\\' | '"') => escaped,
                _ => return None,
            }),
            other => value.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(digit: char) -> String {
        format!("sha256:{}", digit.to_string().repeat(64))
    }

    fn told(digit: char, at: &str) -> String {
        format!(
            "{STATUS}{{apiserver_id_hash=\"sha256:x\",key_id_hash=\"{}\",provider_name=\"bulla\"}} {at}\n",
            hash(digit)
        )
    }

    #[test]
    fn the_series_are_read_and_others_passed_over() {
        let text = format!(
            "# HELP {LAST} [ALPHA] The last time\n# TYPE {LAST} gauge\ngo_threads 9\nodd{{ }}}} NaN\n{}{}\
             {LAST}{{apiserver_id_hash=\"sha256:x\",key_id_hash=\"{}\",provider_name=\"bulla\",transformation_type=\"from_storage\"}} \
             1.70000001e+09\n{LAST}_more{{}} 1\nprocess_start_time_seconds 1.69e+09\n",
            told('a', "1.7e+09"),
            told('b', "1.7000006e+09 1700000600000"),
            hash('a'),
        );
        let read = Apiserver::parse(&text).unwrap();
        assert_eq!((read.id.as_deref(), read.started), (Some("sha256:x"), Some(1.69e9)));
        let of = &read.providers["bulla"];
        assert_eq!(of.newest(), Some((hash('b').as_str(), 1_700_000_600.0)));
        assert_eq!(of.read.get(&hash('a')), Some(&1_700_000_010.0));
        assert!(of.written.is_empty());
    }

    #[test]
    fn labels_are_unescaped() {
        let (labels, value) = sample("{a=\"x\\\"}\\\\\\n\",b=\"\"} 1").unwrap();
        assert_eq!((labels["a"].as_str(), labels["b"].as_str(), value), ("x\"}\\\n", "", 1.0));
        for bad in [
            "{a=\"x} 1",
            "{a=x} 1",
            "{a=\"x\" b=\"y\"} 1",
            "{a=\"\\t\"} 1",
            "{a=\"\",a=\"\"} 1",
            "{}1",
            "{} NaN",
            "{} 1 x",
        ] {
            assert!(sample(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn what_is_not_of_one_kube_apiserver_is_refused() {
        let short = told('a', "1").replace("aaaa", "");
        let other = told('b', "1").replace("sha256:x", "sha256:y");
        for (text, named) in [
            (String::new(), "no key id"),
            ("process_start_time_seconds 1\n".to_owned(), "no key id"),
            (format!("{}{}", told('a', "1"), told('a', "2")), "line 2"),
            (format!("{}{other}", told('a', "1")), "two kube-apiservers"),
            (told('a', "soon"), "line 1"),
            (told('a', "+Inf"), "line 1"),
            (short, "64 hexadecimal"),
            (told('a', "1").replace("provider_name", "provider"), "provider_name"),
            (told('a', "1").replace(STATUS, LAST), "transformation_type"),
            ("process_start_time_seconds 1\nprocess_start_time_seconds 2\n".to_owned(), "twice"),
        ] {
            let error = Apiserver::parse(&text).unwrap_err();
            assert!(error.contains(named), "{text}: {error}");
        }
    }
}
