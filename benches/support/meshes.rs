//! A mesh as operators would write it.

use meshroute::{Reader, Reading, Resources};

/// Hosts with a Service and three routes each, and how many routes these are.
pub fn a_mesh(hosts: usize) -> (Resources, usize) {
    let mut resources = Resources::new();
    resources.apply_read(read(&(0..hosts).map(|at| service(at) + &rules(at, "u")).collect::<String>()));
    (resources, 3 * hosts)
}

/// What stands in a text, which is right.
pub fn read(text: &str) -> Reader {
    let mut reader = Reader::new(Reading::Strict);
    reader.text(text, "-");
    assert!(!reader.failed(), "{:?}", reader.findings());
    reader
}

/// Three rules: a header with this value, a prefix, everything.
pub fn rules(at: usize, user: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: s{at}}}\nspec:\n  hosts: [s{at}]\n  http:\n  \
         - match: [{{headers: {{x-user: {{exact: {user}}}}}}}]\n    route: [{{destination: {{host: s{at}}}}}]\n  \
         - match: [{{uri: {{prefix: /api/}}}}]\n    route: [{{destination: {{host: s{at}}}}}]\n  \
         - route: [{{destination: {{host: s{at}}}}}]\n---\n"
    )
}

fn service(at: usize) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: s{at}}}\nspec: {{ports: [{{name: http, port: 80}}]}}\n---\n"
    )
}
