//! Every file of `tests/cases/<topic>/` is one case: some resources, who asks, some questions, and the answers that
//! Istio's or Envoy's documentation or source promises. Each question goes through `explain`, the router and every
//! adapter.
//!
//! Most cases list the small world of `tests/cases/world.yaml` under `files`, and add what they are about. Findings of
//! the reader that a case does not list make it fail, as does any error that it does not list: a slip of the pen must
//! not pass for a fact. What a case may say is in `tests/support/cases.rs`; unknown keys are errors.
//!
//! `cargo test --test cases -- --nocapture` prints how many cases and questions each topic has. With `CASE=some/part`
//! in the environment only files with that in their path are run.

#[path = "support/cases.rs"]
mod support;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use meshroute::authorize::Guard;
use meshroute::balance::RateLimiter;
use meshroute::limit::RateLimits;
use meshroute::{Connection, Diagnostic, Explanation, Live, Plan, Precedence, Reader, Resources, Router, Severity};
use support::{Asked, Case, Expected, Question, Seen, Window, shares};

/// What is wrong with some cases, line by line.
type Wrong = Vec<String>;

#[test]
fn every_case_holds() {
    let (mut wrong, mut cases, mut questions) = (Wrong::new(), 0, 0);
    for topic in folders(&root().join("tests/cases")) {
        let ran = run_topic(&topic, &mut wrong);
        println!("{:<16} {:>3} cases, {:>3} questions", name(&topic), ran.0, ran.1);
        (cases, questions) = (cases + ran.0, questions + ran.1);
    }
    println!("{:<16} {cases:>3} cases, {questions:>3} questions", "all");
    assert!(wrong.is_empty(), "{} differences\n\n{}\n", wrong.len(), wrong.join("\n"));
    assert!(cases > 0, "no case was run");
    #[cfg(feature = "pingora")]
    at_most_five_percent_beyond_pingora();
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into()
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let read = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut entries: Vec<PathBuf> = read.map(|entry| entry.expect("the folder can be read").path()).collect();
    entries.sort();
    entries
}

fn folders(folder: &Path) -> Vec<PathBuf> {
    let folders: Vec<_> = entries(folder).into_iter().filter(|entry| entry.is_dir()).collect();
    assert!(!folders.is_empty(), "{} has no topics", folder.display());
    folders
}

/// Runs the cases of a folder and counts them and their questions.
fn run_topic(topic: &Path, wrong: &mut Wrong) -> (usize, usize) {
    let files = entries(topic);
    if !files.iter().any(|file| file.extension().is_some_and(|ending| ending == "yaml")) {
        wrong.push(format!("{}: the topic has no case", topic.display()));
    }
    let wanted = std::env::var("CASE").unwrap_or_default();
    let (mut cases, mut questions) = (0, 0);
    for file in files.iter().filter(|file| file.to_string_lossy().contains(&wanted)) {
        let short = file.strip_prefix(root()).unwrap_or(file).display().to_string();
        match read(file) {
            Ok(case) => {
                (cases, questions) =
                    (cases + 1, questions + case.questions.len() + case.calls.len() + case.rates.len());
                wrong.extend(run(&case).into_iter().map(|difference| format!("{short}: {difference}")));
            }
            Err(error) => wrong.push(format!("{short}: {error}")),
        }
    }
    (cases, questions)
}

fn read(file: &Path) -> Result<Case, String> {
    if file.extension().is_none_or(|ending| ending != "yaml") {
        return Err("it is no `.yaml` file".into());
    }
    let text = std::fs::read_to_string(file).map_err(|error| error.to_string())?;
    let case: Case = serde_yaml::from_str(&text).map_err(|error| error.to_string())?;
    if case.source.trim().is_empty() || case.says.trim().is_empty() {
        return Err("it must say what it shows, and where that stands".into());
    }
    if case.questions.is_empty()
        && case.calls.is_empty()
        && case.mutual_tls.is_empty()
        && case.rates.is_empty()
        && case.findings.is_empty()
        && !case.findings_are_all
    {
        return Err("it asks nothing".into());
    }
    Ok(case)
}

fn run(case: &Case) -> Wrong {
    case.precedences().iter().flat_map(|precedence| run_under(case, *precedence)).collect()
}

fn run_under(case: &Case, precedence: Precedence) -> Wrong {
    let mut wrong = Wrong::new();
    let mut reader = Reader::new(case.reading());
    for file in &case.files {
        if !root().join(file).exists() {
            return vec![format!("there is no `{file}`")];
        }
        reader.path(&root().join(file));
    }
    reader.text(&case.resources, "resources");
    let mut resources = Resources::new();
    let said = resources.apply_read(reader);
    let mut resolution = Plan::resolve(&resources, &case.viewpoint(), &case.mesh(precedence));
    let (guard, findings) = Guard::of(&resources, &case.viewpoint(), &case.mesh(precedence));
    resolution.findings.extend(findings);
    let (limits, findings) = RateLimits::of(&resources, &case.viewpoint(), &case.mesh(precedence));
    resolution.findings.extend(findings);
    check_findings(case, &said, &resolution.findings, &mut wrong);
    wrong.extend(let_in(case, &guard));
    wrong.extend(limited(case, &limits));
    let router = match Router::compile(resolution.plan) {
        Ok(router) => Arc::new(router),
        Err(error) => return vec![format!("the plan cannot be compiled: {error}")],
    };
    for (number, question) in (1..).zip(&case.questions) {
        let place = format!("question {number} `{}` [{precedence:?}]", question.ask);
        wrong.extend(ask(&router, question).into_iter().map(|difference| format!("{place} {difference}")));
    }
    wrong
}

/// What of a case's calls the guard says otherwise, also after a journey as text.
fn let_in(case: &Case, guard: &Guard) -> Wrong {
    let mut wrong = Wrong::new();
    let text = serde_json::to_string(guard).unwrap_or_default();
    let sent: Guard = match serde_json::from_str(&text) {
        Ok(sent) => sent,
        Err(error) => return vec![format!("the guard cannot be sent: {error}")],
    };
    for guard in [guard, &sent] {
        for call in &case.calls {
            let judged = call.judged(guard).unwrap_or_else(|error| error);
            if judged != call.expects {
                wrong.push(format!("call `{}`: wanted `{}`, got `{judged}`", call.ask, call.expects));
            }
        }
        for (port, wanted) in &case.mutual_tls {
            let got = guard.mutual_tls(*port);
            if got != *wanted {
                wrong.push(format!("port {port}: wanted {wanted:?}, got {got:?}"));
            }
        }
    }
    wrong
}

/// What of a case's rates a limiter says otherwise, also after a journey of its limits as text.
fn limited(case: &Case, limits: &RateLimits) -> Wrong {
    let mut wrong = Wrong::new();
    let text = serde_json::to_string(limits).unwrap_or_default();
    let sent: RateLimits = match serde_json::from_str(&text) {
        Ok(sent) => sent,
        Err(error) => return vec![format!("the limits cannot be sent: {error}")],
    };
    for limits in [limits.clone(), sent] {
        let mut limiter = RateLimiter::default();
        limiter.update(limits);
        for rate in &case.rates {
            let got = rate.asked(&mut limiter);
            if got != rate.expects {
                wrong.push(format!("{rate:?}: got {got:?}"));
            }
        }
    }
    wrong
}

fn check_findings(case: &Case, read: &[Diagnostic], resolved: &[Diagnostic], wrong: &mut Wrong) {
    let all = || read.iter().chain(resolved);
    for expected in &case.findings {
        if !all().any(|finding| fits(expected, finding)) {
            let made: Vec<String> = all().map(|finding| format!("\n    {finding}")).collect();
            wrong.push(format!("no such finding: {expected:?}; there are:{}", made.concat()));
        }
    }
    let listed = |finding: &Diagnostic| case.findings.iter().any(|expected| fits(expected, finding));
    let read = read.iter().map(|finding| (true, finding));
    for (reading, finding) in read.chain(resolved.iter().map(|finding| (false, finding))) {
        let must_be_listed = reading || case.findings_are_all || finding.severity == Severity::Error;
        if must_be_listed && !listed(finding) {
            wrong.push(format!("a finding that the case does not list: {finding}"));
        }
    }
}

fn fits(expected: &Expected, finding: &Diagnostic) -> bool {
    let resource = finding.resource.as_ref().map(ToString::to_string).unwrap_or_default();
    let (line, document) = finding.place.as_ref().map_or((0, 0), |place| (place.line, place.document));
    let says = |text: &String| finding.message.contains(text) || finding.remedy.contains(text);
    expected.code == finding.code
        && expected.severity.is_none_or(|severity| severity == finding.severity)
        && expected.resource.as_ref().is_none_or(|expected| *expected == resource)
        && expected.field.as_ref().is_none_or(|field| *field == finding.field)
        && expected.line.is_none_or(|expected| expected == line)
        && expected.document.is_none_or(|expected| expected == document)
        && expected.says.as_ref().is_none_or(says)
}

/// Puts one question through every window.
fn ask(router: &Arc<Router>, question: &Question) -> Wrong {
    let asked = match question.parts() {
        Ok(asked) => asked,
        Err(error) => return vec![error],
    };
    if let Some(connection) = asked.connection() {
        return ask_whole(router, question, &asked, &connection);
    }
    let mut wrong: Wrong = question.expects.fault().into_iter().collect();
    let request = asked.request();
    let roll = question.roll();
    let explanation = router.plan().explain(&request, &roll);
    let decision = router.decide(&request, &roll);
    let mut windows = vec![
        (Window::Explain, Ok(Seen::decision(Window::Explain, &explanation.decision, &asked, router, &roll))),
        (Window::Router, Ok(Seen::decision(Window::Router, &decision, &asked, router, &roll))),
    ];
    if question.sendable() {
        windows.push((Window::Http, Seen::http(router, &asked, &roll)));
        windows.push((Window::Tower, through_tower(router, &asked, question, false)));
        if question.is_looked_into() {
            windows.push((Window::Tower, through_tower(router, &asked, question, true)));
        }
        #[cfg(feature = "pingora")]
        windows.extend(through_pingora(router, &asked, question).transpose().map(|seen| (Window::Pingora, seen)));
    } else if asked.http().is_ok() {
        wrong.push("the `http` crate has room for it".into());
    }
    for (window, seen) in windows {
        match seen {
            Ok(seen) => wrong.extend(differences(question, window, &seen)),
            Err(error) => wrong.push(format!("[{window}] {error}")),
        }
    }
    wrong.extend(untold(question, &explanation));
    wrong.extend(wrong_shares(router, &asked, question));
    wrong
}

/// Asks for a connection whose content is not looked at; the other adapters know only requests.
fn ask_whole(router: &Router, question: &Question, asked: &Asked<'_>, connection: &Connection<'_>) -> Wrong {
    let roll = question.roll();
    let explanation = router.plan().explain_connection(connection, &roll);
    let decision = router.connect(connection, &roll);
    let mut wrong: Wrong = question.expects.fault().into_iter().collect();
    for (window, decision) in [(Window::Explain, &explanation.decision), (Window::Router, &decision)] {
        wrong.extend(differences(question, window, &Seen::decision(window, decision, asked, router, &roll)));
    }
    match Seen::tls(router, asked, &roll) {
        Ok(seen) => wrong.extend(differences(question, Window::Tls, &seen)),
        Err(error) => wrong.push(format!("[{}] {error}", Window::Tls)),
    }
    wrong.extend(untold(question, &explanation));
    wrong
}

fn differences(question: &Question, window: Window, seen: &Seen) -> Wrong {
    let differences = question.expects.differences(seen);
    differences.into_iter().map(|difference| format!("[{window}] {difference}")).collect()
}

fn untold(question: &Question, explanation: &Explanation<'_>) -> Wrong {
    let story = explanation.to_string();
    let untold = question.expects.explained.iter().filter(|text| !story.contains(text.as_str()));
    untold.map(|text| format!("[explain] `{text}` is not in the story:\n{story}")).collect()
}

/// Through the layer; with `sent`, on to what sends it too.
fn through_tower(router: &Arc<Router>, asked: &Asked<'_>, question: &Question, sent: bool) -> Result<Seen, String> {
    let live = Arc::new(Live::new(router.clone()));
    let runtime = tokio::runtime::Builder::new_current_thread().build().map_err(|error| error.to_string())?;
    runtime.block_on(Seen::tower(&live, asked, question.roll(), sent))
}

/// How many questions Pingora was asked, by what it lacks for them.
#[cfg(feature = "pingora")]
static PINGORA: std::sync::Mutex<std::collections::BTreeMap<Option<support::pingora::Gap>, usize>> =
    std::sync::Mutex::new(std::collections::BTreeMap::new());

/// As the hooks are; then, where that is not the answer, with the server's name handed in. `None`: it cannot be put.
#[cfg(feature = "pingora")]
fn through_pingora(router: &Arc<Router>, asked: &Asked<'_>, question: &Question) -> Result<Option<Seen>, String> {
    use support::pingora::Gap;
    let live = Arc::new(Live::new(router.clone()));
    let runtime = tokio::runtime::Builder::new_current_thread().build().map_err(|error| error.to_string())?;
    let put = |named| runtime.block_on(Seen::pingora(&live, asked, question.roll(), named));
    let mut seen = put(false)?;
    let mut gap = seen.as_ref().err().copied();
    if question.is_tls() && seen.as_ref().is_ok_and(|seen| !question.expects.differences(seen).is_empty()) {
        (seen, gap) = (put(true)?, Some(Gap::ServerName));
    }
    *PINGORA.lock().expect("nobody panics with it").entry(gap).or_default() += 1;
    Ok(seen.ok())
}

#[cfg(feature = "pingora")]
fn at_most_five_percent_beyond_pingora() {
    let asked = PINGORA.lock().expect("nobody panics with it");
    asked.iter().for_each(|(gap, count)| println!("pingora: {count:>4} questions, {gap:?}"));
    let beyond: usize = asked.iter().filter(|(gap, _)| gap.is_some()).map(|(_, count)| count).sum();
    let all: usize = asked.values().sum();
    let some_only = std::env::var_os("CASE").is_some();
    assert!(beyond * 20 <= all || some_only, "Pingora lacks what {beyond} of {all} questions need: more than 5 %");
}

fn wrong_shares(router: &Router, asked: &Asked<'_>, question: &Question) -> Option<String> {
    let wanted = question.expects.weights.as_ref()?;
    let got = shares(router, asked);
    (*wanted != got).then(|| format!("[router] weights: wanted {wanted:?}, got {got:?}"))
}
