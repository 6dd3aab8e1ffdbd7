//! What embedders rely on without saying so: which types cross threads, how large they are, which traits are objects.

use std::error::Error;
use std::fmt::{Debug, Display};

use meshroute::plan::{Cluster, EditHeaders, HeaderEdits, HeaderWrite, Route};
use meshroute::{
    Connection, Decision, Diagnostic, Explanation, Forwarded, Headers, HostPattern, Live, Mesh, NoHeaders, Outcome,
    Pattern, Plan, PlanError, Precedence, Reader, Refusal, Request, Resolution, ResourceRef, Resources, Roll, Router,
    Snapshot, Viewpoint,
};

fn crosses_threads<T: Send + Sync + Debug>() {}
fn is_owned<T: Send + Sync + Debug + 'static>() {}
fn is_copied<T: Copy>() {}
fn is_cloned<T: Clone>() {}
fn is_an_error<T: Error + Display + Send + Sync + 'static>() {}

#[test]
fn what_crosses_threads() {
    is_owned::<Router>();
    is_owned::<Live>();
    is_owned::<Plan>();
    is_owned::<Resources>();
    is_owned::<Reader>();
    is_owned::<Resolution>();
    is_owned::<Viewpoint>();
    is_owned::<Mesh>();
    is_owned::<Diagnostic>();
    is_owned::<ResourceRef>();
    is_owned::<Pattern>();
    is_owned::<HostPattern>();
    is_owned::<Roll>();
    is_owned::<Route>();
    is_owned::<Cluster>();
    is_owned::<Snapshot>();
    // A decision may be held across an await.
    crosses_threads::<Decision<'_>>();
    crosses_threads::<Forwarded<'_>>();
    crosses_threads::<Explanation<'_>>();
    crosses_threads::<Connection<'_>>();
}

#[test]
fn what_is_copied_and_cloned() {
    is_copied::<Request<'_>>();
    is_copied::<Connection<'_>>();
    is_copied::<Roll>();
    is_copied::<Outcome<'_>>();
    is_copied::<Refusal<'_>>();
    is_copied::<Precedence>();
    is_cloned::<Decision<'_>>();
    is_cloned::<Plan>();
    is_cloned::<Resources>();
    is_cloned::<Diagnostic>();
}

#[test]
fn what_is_an_error() {
    is_an_error::<PlanError>();
    is_an_error::<Diagnostic>();
    is_an_error::<meshroute::PatternError>();
    is_an_error::<meshroute::PathError>();
    is_an_error::<meshroute::NameError>();
    is_an_error::<meshroute::adapter::http::Unwritable>();
}

/// A decision is references and little else, 36 bytes for an origin that is let in among it: a path that had to be
/// normalised is worked out again when it is asked for.
#[test]
fn how_large_hot_types_are() {
    fn at_most<T>(most: usize) {
        let size = size_of::<T>();
        assert!(size <= most, "{} has {size} bytes, more than {most}", std::any::type_name::<T>());
    }
    at_most::<Decision<'_>>(320);
    at_most::<Outcome<'_>>(64);
    at_most::<Request<'_>>(144);
    at_most::<Connection<'_>>(48);
    at_most::<Roll>(24);
    at_most::<HostPattern>(16);
    at_most::<Pattern>(8);
    at_most::<Snapshot>(24);
}

#[test]
fn headers_are_objects() {
    let lines = [("a", "1"), ("A", "2")];
    for headers in [&lines as &dyn Headers, &lines.as_slice(), &lines.to_vec()] {
        assert!(headers.any("a", &mut |value| value == b"2"));
    }
    assert!(!(&NoHeaders as &dyn Headers).any("a", &mut |_| true));
    let mut edits = HeaderEdits::default();
    edits.remove.push("a".into());
    edits.write.push(HeaderWrite::new("B", "2", false));
    let mut map = vec![("a".to_string(), "1".to_string())];
    edits.apply(&mut map as &mut dyn EditHeaders);
    assert_eq!(map, [("b".to_string(), "2".to_string())]);
}
