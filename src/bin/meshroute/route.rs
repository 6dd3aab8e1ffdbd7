//! `meshroute route`: where a request goes, and why.

mod words;

use std::net::IpAddr;
use std::process::ExitCode;

use meshroute::plan::{Action, Destination, Origin};
use meshroute::{
    Connection, Decision, Diagnostic, Outcome, Plan, Request, Resources, Roll, Router, Step, TlsHello, Viewpoint,
    host_of,
};
use serde_json::{Value, json};

use super::input::{self, Client, Input, Winner};
use super::print::{self, Format, Ink, ink};
use super::running::Running;
use words::{changes, endpoints, name, outcome, percent, policy, rule_of};

/// What is asked.
#[derive(clap::Args)]
#[command(
    override_usage = "meshroute route -f <PATH> [OPTIONS] [METHOD] <URL>\n       meshroute route --mesh <ADDRESS> [OPTIONS] [METHOD] <URL>",
    after_help = "\
The host is looked up as the client's DNS would: `nginx` is the service of its own namespace.
Services without an address and Deployments without pods get made-up ones.

Examples:
  meshroute route -f config/ --from default GET http://nginx:5000/
  meshroute route -f config/ --from default/nginx-deployment-master http://nginx:5000/ -H 'canary_id: 1'
  meshroute route -f config/ tcp://db:3306
  meshroute route -f config/ --from shop/app=web,version=v2 POST http://cart/items
  meshroute route -f config/ --gateway --from istio-system/istio=ingressgateway https://shop.example.com/

Exit status: 0 it goes somewhere, 1 it is or may be refused (4xx, 5xx), 2 something could not be read"
)]
pub struct Args {
    /// The method; GET if it is left out
    #[arg(value_name = "METHOD")]
    first: String,
    /// The URL: scheme, host and port as the client writes them; `tcp://db:3306` and `tls://db:3306` are connections
    #[arg(value_name = "URL")]
    second: Option<String>,
    #[command(flatten)]
    input: Input,
    #[command(flatten)]
    running: Running,
    /// Who asks: NAMESPACE, NAMESPACE/POD (or its Deployment, or how its name begins), or NAMESPACE/KEY=VALUE,..
    #[arg(long, default_value = "default", value_name = "CLIENT")]
    from: String,
    /// The client is a gateway: the request arrives there from outside
    #[arg(long)]
    gateway: bool,
    /// A header, `name: value`. May be given several times
    #[arg(short = 'H', long = "header", value_name = "HEADER")]
    headers: Vec<String>,
    /// The roll of the dice for weighted destinations; without it all of them are shown
    #[arg(long, value_name = "N")]
    roll: Option<u64>,
    /// Who wins where several VirtualServices claim one host
    #[arg(long, value_enum, default_value = "last-applied")]
    precedence: Winner,
    /// How the answer is printed
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

/// The request, taken apart.
struct Ask {
    method: String,
    scheme: String,
    encrypted: bool,
    /// Whether it is a connection that carries no HTTP.
    opaque: bool,
    authority: String,
    path: String,
    port: u16,
    headers: Vec<(String, String)>,
}

/// One thing that may become of the request, and its share.
struct Fate<'a> {
    decision: Decision<'a>,
    /// Which of how many.
    share: Option<(u32, u64)>,
}

/// Answers one request.
pub fn run(args: &Args) -> ExitCode {
    match answer(args) {
        Ok(status) => ExitCode::from(status),
        Err(why) => {
            print::complain(why);
            ExitCode::from(2)
        }
    }
}

fn answer(args: &Args) -> Result<u8, String> {
    let ask = ask(args)?;
    let world = input::read_all(&args.input.paths(&[]), &args.running)?;
    for finding in world.findings.iter().filter(|finding| input::is_worth_telling(finding)) {
        eprintln!("{finding}");
    }
    if world.findings.iter().any(input::is_unreadable) {
        return Err("there is no answer while something cannot be read".to_string());
    }
    let client = input::client(&args.from, &world.resources)?;
    let viewpoint = match args.gateway {
        true => Viewpoint::gateway(&client.namespace),
        false => Viewpoint::sidecar(&client.namespace),
    };
    let resolution = Plan::resolve(&world.resources, &viewpoint.labels(client.labels.clone()), &args.precedence.mesh());
    let router = Router::compile(resolution.plan).map_err(|error| error.to_string())?;
    let answer = Answer::new(&ask, &router, &client, &world.resources, resolution.findings, args);
    Ok(answer.print(args.format))
}

fn ask(args: &Args) -> Result<Ask, String> {
    let (method, url) = match &args.second {
        Some(url) => (args.first.as_str(), url.as_str()),
        None => ("GET", args.first.as_str()),
    };
    let (scheme, rest) = url.split_once("://").unwrap_or(("http", url));
    let scheme = scheme.to_ascii_lowercase();
    let (encrypted, opaque) = match scheme.as_str() {
        "http" => (false, false),
        "https" => (true, false),
        "tcp" => (false, true),
        "tls" => (true, true),
        _ => return Err(format!("`{scheme}` is no scheme that is known here; write `http`, `https`, `tcp` or `tls`")),
    };
    let cut = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(cut);
    let path = path.split('#').next().unwrap_or_default();
    let path = if path.starts_with('/') { path.to_string() } else { format!("/{path}") };
    if authority.is_empty() {
        return Err(format!("`{url}` names no host; write `http://host:port/path`"));
    }
    let port = match authority[host_of(authority).len()..].strip_prefix(':') {
        Some(port) => port.parse().map_err(|_| format!("`{port}` is no port"))?,
        None if opaque => return Err(format!("`{url}` names no port; write `{scheme}://host:port`")),
        None if encrypted => 443,
        None => 80,
    };
    let headers = args.headers.iter().map(|header| split_header(header)).collect::<Result<_, _>>()?;
    Ok(Ask { method: method.into(), scheme, encrypted, opaque, authority: authority.into(), path, port, headers })
}

fn split_header(header: &str) -> Result<(String, String), String> {
    match header.split_once(':') {
        Some((name, value)) if !name.trim().is_empty() => Ok((name.trim().to_string(), value.trim().to_string())),
        _ => Err(format!("`{header}` is no header; write `name: value`")),
    }
}

impl Ask {
    fn request<'a>(&'a self, address: Option<IpAddr>, gateway: bool) -> Request<'a> {
        let request = Request::new(&self.method, &self.authority, &self.path);
        let request = request.headers(&self.headers).port(self.port).address(address);
        if self.encrypted && gateway { request.scheme("https").tls(self.hello()) } else { request }
    }

    fn hello(&self) -> TlsHello<'_> {
        TlsHello { sni: Some(host_of(&self.authority)) }
    }

    /// Whether the proxy sees only a connection: a sidecar does not look into what the client has encrypted.
    fn is_opaque(&self, gateway: bool) -> bool {
        self.opaque || (self.encrypted && !gateway)
    }

    fn connection(&self, address: Option<IpAddr>) -> Connection<'_> {
        let connection = Connection::new(self.port).address(address);
        if self.encrypted { connection.tls(self.hello()) } else { connection }
    }
}

/// The answer with its reasons.
struct Answer<'a> {
    ask: &'a Ask,
    client: &'a Client,
    resources: &'a Resources,
    plan: &'a Plan,
    address: Option<IpAddr>,
    request: Request<'a>,
    fates: Vec<Fate<'a>>,
    why: Vec<Reason>,
    findings: Vec<Diagnostic>,
    gateway: bool,
}

/// One step of the way.
struct Reason {
    text: String,
    place: Option<meshroute::Place>,
    holds: bool,
}

impl<'a> Answer<'a> {
    fn new(
        ask: &'a Ask,
        router: &'a Router,
        client: &'a Client,
        resources: &'a Resources,
        findings: Vec<Diagnostic>,
        args: &Args,
    ) -> Self {
        // As a DNS answer would: only a name with one address leaves no doubt.
        let address = match router.lookup(&ask.authority) {
            [only] if !args.gateway => Some(*only),
            _ => host_of(&ask.authority).parse().ok().filter(|_| !args.gateway),
        };
        let request = ask.request(address, args.gateway);
        let mut answer = Answer {
            ask,
            client,
            resources,
            plan: router.plan(),
            address,
            request,
            fates: Vec::new(),
            why: Vec::new(),
            findings: Vec::new(),
            gateway: args.gateway,
        };
        answer.decide(args.roll);
        answer.findings = findings.into_iter().filter(|finding| answer.concerns(finding)).collect();
        answer
    }

    fn decide(&mut self, roll: Option<u64>) {
        let (plan, rolled) = (self.plan, Roll::pinned(roll.unwrap_or_default()));
        if self.ask.is_opaque(self.gateway) {
            let connection = self.ask.connection(self.address);
            if !self.ask.opaque {
                let text = "the client encrypts it itself: the sidecar sees a TLS connection, no request";
                self.why.push(Reason { text: text.into(), place: None, holds: true });
            }
            let explanation = plan.explain_connection(&connection, &rolled);
            self.why.extend(explanation.steps.iter().map(|step| reason(step, self.resources)));
            self.fates = fates(|roll| plan.explain_connection(&connection, &roll).decision, roll);
            return;
        }
        let request = self.request;
        let explanation = plan.explain(&request, &rolled);
        self.why = explanation.steps.iter().map(|step| reason(step, self.resources)).collect();
        self.fates = fates(|roll| plan.explain(&request, &roll).decision, roll);
    }

    /// Whether a finding is about a resource that has a part in the answer.
    fn concerns(&self, finding: &Diagnostic) -> bool {
        let Some(resource) = &finding.resource else { return false };
        let conflict = finding.code == "virtual-service-conflict";
        self.fates.iter().any(|fate| {
            let origin = fate.decision.origin();
            let by_origin = origin.is_some_and(|origin| {
                let on_the_way = rule_of(&origin.field).is_some_and(|rule| finding.field.starts_with(rule));
                let of_a_rule =
                    ["spec.http[", "spec.tcp[", "spec.tls["].iter().any(|rules| finding.field.starts_with(rules));
                let elsewhere = of_a_rule && !on_the_way;
                let named = conflict && finding.message.contains(&origin.resource.to_string());
                (*origin.written_in == *resource || *origin.resource == *resource || named) && !elsewhere
            });
            by_origin || fate.decision.cluster().and_then(|cluster| cluster.rule.as_deref()) == Some(resource)
        })
    }

    fn print(&self, format: Format) -> u8 {
        match format {
            Format::Json => print::out_json(&self.json()),
            Format::Text => print::out(&self.text()),
        }
        u8::from(self.fates.iter().any(|fate| is_refused(&fate.decision)))
    }

    fn text(&self) -> String {
        let ask = self.ask;
        let from = match &self.client.pod {
            Some(pod) => format!("{}/{pod}", self.client.namespace),
            None => self.client.namespace.clone(),
        };
        let request = match ask.opaque {
            true => format!("{}://{} from {from}", ask.scheme, ask.authority),
            false => format!("{} {}://{}{} from {from}", ask.method, ask.scheme, ask.authority, ask.path),
        };
        let mut lines = vec![ink(Ink::Faint, request)];
        let changes: Vec<Vec<String>> = self.fates.iter().map(|fate| changes(&fate.decision, self.ask)).collect();
        let alike = changes.windows(2).all(|pair| pair[0] == pair[1]);
        for (fate, changes) in self.fates.iter().zip(&changes) {
            lines.extend(self.fate(fate));
            lines.extend(changes.iter().filter(|_| !alike).map(|line| format!("         {line}")));
        }
        lines.extend(changes.first().into_iter().filter(|_| alike).flatten().map(|line| format!("  {line}")));
        lines.extend(self.policy().iter().map(|line| format!("  {line}")));
        lines.push(String::new());
        lines.push(ink(Ink::Strong, "why"));
        for reason in &self.why {
            let mark = if reason.holds { ink(Ink::Good, "+") } else { ink(Ink::Faint, "-") };
            lines.push(format!("  {mark} {}", reason.text));
            lines.extend(reason.place.as_ref().map(|place| ink(Ink::Faint, format!("      {}", print::place(place)))));
        }
        let mut text = lines.join("\n") + "\n";
        for finding in &self.findings {
            text += &format!("\n{}", print::finding(finding));
        }
        text
    }

    /// What the route does to every request.
    fn policy(&self) -> Vec<String> {
        let route = self.fates.first().and_then(|fate| fate.decision.route);
        route.map(|route| policy(route, self.plan)).unwrap_or_default()
    }

    /// What may become of it, in one line or two.
    fn fate(&self, fate: &Fate<'_>) -> Vec<String> {
        let share = fate.share.map(|(weight, total)| format!("{:>5}  ", percent(u64::from(weight), total)));
        let share = share.unwrap_or_default();
        let colour = if is_refused(&fate.decision) { Ink::Bad } else { Ink::Good };
        let mut lines = vec![format!("{share}{}", ink(colour, outcome(&fate.decision, &self.request)))];
        if let Some(cluster) = fate.decision.cluster().filter(|cluster| cluster.takes_traffic()) {
            lines.extend(
                endpoints(cluster).into_iter().map(|line| format!("{:width$}{line}", "", width = share.len() + 2)),
            );
        }
        lines
    }

    fn json(&self) -> Value {
        let ask = self.ask;
        json!({
            "request": {
                "method": ask.method, "scheme": ask.scheme, "authority": ask.authority,
                "path": ask.path, "port": ask.port, "address": self.address, "headers": ask.headers,
            },
            "from": {"namespace": self.client.namespace, "pod": self.client.pod, "labels": self.client.labels, "gateway": self.gateway},
            "policy": self.policy(),
            "outcomes": self.fates.iter().map(|fate| self.fate_json(fate)).collect::<Vec<_>>(),
            "why": self.why.iter().map(|reason| json!({
                "text": reason.text,
                "holds": reason.holds,
                "file": reason.place.as_ref().map(|place| &*place.file),
                "line": reason.place.as_ref().map(|place| place.line),
            })).collect::<Vec<_>>(),
            "findings": self.findings.iter().map(print::finding_json).collect::<Vec<_>>(),
        })
    }

    fn fate_json(&self, fate: &Fate<'_>) -> Value {
        let decision = &fate.decision;
        let mut value = json!({"outcome": outcome(decision, &self.request), "refused": is_refused(decision)});
        if let Some((weight, total)) = fate.share {
            value["weight"] = json!(weight);
            value["of"] = json!(total);
        }
        match &decision.outcome {
            Outcome::Refuse(refusal) => {
                value["status"] = json!(refusal.status);
                value["flag"] = json!(refusal.flag);
                value["detail"] = json!(refusal.detail);
            }
            Outcome::Redirect(code) => {
                value["status"] = json!(code);
                value["location"] = json!(decision.location(&self.request));
            }
            Outcome::Direct(answer) => value["status"] = json!(answer.status),
            Outcome::Preflight(_) => value["status"] = json!(200),
            _ => {}
        }
        if let Some(cluster) = decision.cluster() {
            value["host"] = json!(&*cluster.host);
            value["subset"] = json!(&*cluster.subset);
            value["port"] = json!(cluster.port);
            value["endpoints"] = cluster
                .endpoints
                .iter()
                .map(|endpoint| {
                    json!({
                        "address": endpoint.to_string(), "workload": &*endpoint.workload,
                    })
                })
                .collect();
        }
        if let Outcome::Forward(_) = &decision.outcome {
            let mut headers = self.ask.headers.clone();
            decision.edit_request(&mut headers);
            value["upstream"] = json!({
                "path": String::from_utf8_lossy(&decision.path()),
                "authority": decision.authority().unwrap_or(&self.ask.authority),
                "headers": headers,
            });
        }
        value
    }
}

/// A step in words, with the line that it is about.
fn reason(step: &Step<'_>, resources: &Resources) -> Reason {
    let reason = |text: String, origin: Option<&Origin>, holds| {
        let place = origin.and_then(|origin| resources.place(&origin.written_in, &origin.field));
        Reason { text, place, holds }
    };
    match step {
        Step::Lost { route, because, .. } => {
            reason(format!("{} does not hold: {because}", name(route)), route.origin.as_ref(), false)
        }
        Step::Passed(Some(origin)) => {
            reason(format!("{}, {} takes it", origin.written_in, origin.field), Some(origin), true)
        }
        Step::Passed(None) => reason("the service's default: no tcp or tls rule has a say".into(), None, true),
        Step::Won(route) => reason(format!("{} holds", name(route)), route.origin.as_ref(), true),
        Step::NoListener { .. } | Step::NoChain | Step::BadPath(_) | Step::NoHost { .. } | Step::NoRoute => {
            reason(step.to_string(), None, false)
        }
        _ => reason(step.to_string(), None, true),
    }
}

/// One fate for each destination, or the one that a roll picks.
fn fates<'a>(decide: impl Fn(Roll) -> Decision<'a>, roll: Option<u64>) -> Vec<Fate<'a>> {
    if let Some(roll) = roll {
        return vec![Fate { decision: decide(Roll::pinned(roll)), share: None }];
    }
    let first = spared(&decide, 0, 1);
    let destinations = destinations(&first);
    if destinations.len() < 2 {
        return vec![Fate { decision: first, share: None }];
    }
    let total = destinations.iter().map(|destination| u64::from(destination.weight)).sum();
    let mut start = 0;
    let fate = |destination: &Destination| {
        let decision = spared(&decide, start, total);
        start += u64::from(destination.weight);
        Fate { decision, share: Some((destination.weight, total)) }
    };
    destinations.iter().map(fate).collect()
}

fn destinations<'a>(decision: &Decision<'a>) -> &'a [Destination] {
    match (&decision.outcome, decision.route.map(|route| &route.action)) {
        (_, Some(Action::Forward(forward))) => &forward.destinations,
        (Outcome::Connect(to), _) => to.siblings(),
        _ => &[],
    }
}

/// A decision that picks the destination whose interval begins at `start`, by a roll that no fault hits, if there is
/// one: faults that hit a share of the requests are told apart from where requests go.
fn spared<'a>(decide: &impl Fn(Roll) -> Decision<'a>, start: u64, total: u64) -> Decision<'a> {
    let hit = |decision: &Decision<'_>| {
        let fault = decision.route.and_then(|route| route.fault.as_ref());
        let aborted = matches!(&decision.outcome, Outcome::Refuse(refusal) if refusal.flag == "FI");
        let always = fault.and_then(|fault| fault.abort).is_some_and(|abort| abort.per_million >= 1_000_000);
        aborted && !always
    };
    let rolls = (0..256).map(|round| Roll::pinned(start + round * total.max(1)));
    let mut decisions = rolls.map(decide);
    let first = decisions.next().unwrap_or_else(|| decide(Roll::pinned(start)));
    if hit(&first) { decisions.find(|decision| !hit(decision)).unwrap_or(first) } else { first }
}

/// Whether the mesh answers with an error.
fn is_refused(decision: &Decision<'_>) -> bool {
    match &decision.outcome {
        Outcome::Refuse(_) | Outcome::Blackhole | Outcome::Reset => true,
        Outcome::Direct(answer) => answer.status >= 400,
        Outcome::Connect(to) => !to.cluster.takes_traffic(),
        _ => false,
    }
}
