//! How an endpoint is chosen.

use std::collections::BTreeSet;

use super::field::Field;
use super::findings::Findings;
use super::{locality, traffic_policy};
use crate::model::destination_rule::{ConsistentHashLb, HttpCookie, LoadBalancerSettings, WarmupConfiguration};

/// Envoy's bound for the table of Maglev.
const MAGLEV: u64 = 5_000_011;

/// Checks the settings; `ejects`: whether outlier detection stands beside them.
pub(super) fn check(settings: &LoadBalancerSettings, ejects: bool, field: &Field, found: &mut Findings) {
    let members = [("simple", settings.simple.is_some()), ("consistentHash", settings.consistent_hash.is_some())];
    found.exclusive(field, &members);
    if let Some(hash) = &settings.consistent_hash {
        consistent_hash(hash, &field.key("consistentHash"), found);
    }
    let localities = [
        ("localityLbSetting", settings.locality_lb_setting.is_some()),
        ("zoneAwareLbSetting", settings.zone_aware_lb_setting.is_some()),
    ];
    found.exclusive(field, &localities);
    if let Some(setting) = &settings.locality_lb_setting {
        locality::check(setting, ejects, &field.key("localityLbSetting"), found);
    }
    if let Some(setting) = &settings.zone_aware_lb_setting {
        locality::zone_aware(setting, ejects, &field.key("zoneAwareLbSetting"), found);
    }
    found.at_least_a_millisecond(&field.key("warmupDurationSecs"), settings.warmup_duration_secs);
    if let Some(setting) = &settings.warmup {
        warmup(setting, &field.key("warmup"), found);
    }
}

/// A hash without any key is taken, too.
fn consistent_hash(hash: &ConsistentHashLb, field: &Field, found: &mut Findings) {
    let keys = [
        ("httpHeaderName", hash.http_header_name.is_some()),
        ("httpCookie", hash.http_cookie.is_some()),
        ("useSourceIp", hash.use_source_ip.is_some()),
        ("httpQueryParameterName", hash.http_query_parameter_name.is_some()),
    ];
    found.exclusive(field, &keys);
    found.exclusive(field, &[("ringHash", hash.ring_hash.is_some()), ("maglev", hash.maglev.is_some())]);
    if let Some(it) = &hash.http_cookie {
        cookie(it, &field.key("httpCookie"), found);
    }
    if hash.minimum_ring_size != 0 {
        let field = field.key("minimumRingSize");
        found.warning(&field, "deprecated-field", "`minimumRingSize` is deprecated here; use the one in `ringHash`");
        if hash.ring_hash.is_some() || hash.maglev.is_some() {
            let message = "`minimumRingSize` must not be given together with `ringHash` or `maglev`";
            found.error(&field, "exclusive-fields", message);
        }
    }
    if let Some(maglev) = &hash.maglev {
        table_size(maglev.table_size, &field.key("maglev").key("tableSize"), found);
    }
}

fn cookie(cookie: &HttpCookie, field: &Field, found: &mut Findings) {
    if cookie.name.is_empty() {
        found.error(&field.key("name"), "no-cookie-name", "a cookie must have a name");
    }
    let mut names = BTreeSet::new();
    for (i, attribute) in cookie.attributes.iter().enumerate() {
        let field = field.key("attributes").at(i).key("name");
        if attribute.name.is_empty() {
            found.error(&field, "no-cookie-name", "an attribute of a cookie must have a name");
        }
        if !names.insert(attribute.name.as_str()) {
            let message = format!("the attribute `{}` is given more than once", attribute.name);
            found.error(&field, "duplicate-attribute", message);
        }
    }
}

fn table_size(size: u64, field: &Field, found: &mut Findings) {
    if size >= MAGLEV {
        found.error(field, "bad-table-size", format!("`tableSize` must be less than {MAGLEV}"));
    } else if !is_prime(size) {
        found.error(field, "bad-table-size", format!("`tableSize` must be a prime, and `{size}` is none"));
    }
}

/// As Envoy has it: 1 counts as a prime.
fn is_prime(number: u64) -> bool {
    if (1..4).contains(&number) {
        return true;
    }
    let mut odd_factors = (3..).step_by(2).take_while(|factor| factor * factor <= number);
    number % 2 == 1 && odd_factors.all(|factor| !number.is_multiple_of(factor))
}

fn warmup(warmup: &WarmupConfiguration, field: &Field, found: &mut Findings) {
    traffic_policy::required_duration(field, "duration", warmup.duration, found);
    if let Some(percent) = warmup.minimum_percent {
        found.percent(&field.key("minimumPercent"), percent);
    }
    if warmup.aggression.is_some_and(|aggression| aggression <= 0.0) {
        found.error(&field.key("aggression"), "bad-aggression", "`aggression` must be greater than 0");
    }
}
