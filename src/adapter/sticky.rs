//! What makes the tries of a client go to one endpoint.

use std::net::IpAddr;

use ::http::{HeaderMap, HeaderValue};

use super::chosen::Chosen;
use crate::balance::key::{Keyed, fresh_cookie, hash};
use crate::roll::Purpose;

/// What a request sticks by, and the cookie that its client gets to stick by next time.
pub(crate) fn stickiness(
    chosen: &Chosen,
    headers: &HeaderMap,
    path: &[u8],
    source: Option<IpAddr>,
) -> (Option<u64>, Option<HeaderValue>) {
    let Some(key) = chosen.forward().and_then(|forward| forward.hash.as_ref()) else { return (None, None) };
    if let Some(hash) = hash(key, &Keyed { headers, path, source }) {
        return (Some(hash), None);
    }
    let Some((hash, cookie)) = fresh_cookie(key, chosen.roll().draw(Purpose::Endpoint)) else { return (None, None) };
    (Some(hash), HeaderValue::try_from(cookie).ok())
}
