//! OpenAPI 3.1 of the API, made from the code: `/api/openapi.json`, and the page `/api/docs` over it.
//!
//! How a route gets into it, and nowhere else is it written down:
//! 1. The handler says method, path, what it asks and what it answers, in one line where it fits:
//!    `#[utoipa::path(get, path = "/api/v1/things", params(Asked), responses((status = 200, body = Listed<ThingItem>)))]`.
//!    `Listed<T>` and `One<T>` (in `list.rs`) are what is serialised; `ThingItem` derives `ToSchema` beside `Serialize`.
//! 2. Its parameters are the list of names that it reads by: `params!(Asked = PARAMS);` makes `Asked`, for `params(Asked)` in a query
//!    and for `request_body = inline(Asked)` in a body. What each name means stands once, in `openapi/params.rs`.
//! 3. It is routed with `routes!(things::list, things::make)`, once per path, never with `.route`.
//! 4. Its doc comment is its description: the first sentence is the summary. Fields' doc comments likewise.
//! 5. Added here by rule (`openapi/finish.rs`), never by hand: operation id, tag, the parameters in the path, the scope, and the answers
//!    401, 403, 429, 503 (whatever needs a token), 400 (has parameters), 413 (has a body), 404 (has a name in its path). A further
//!    refusal is `(status = 409, description = "it has ended already")`: its body, with the codes of that status, comes by itself.
//!    Codes stand in `error.rs`; fields called `…_at` and `until` are times; `value_type = words::DeliveryState` names their words.

use std::sync::{Arc, OnceLock};

use axum::{
    Extension,
    http::header,
    response::{IntoResponse, Response},
};
use bytes::Bytes;

use routed::Says;

mod finish;
mod page;
pub(super) mod params;
pub(super) mod routed;
#[cfg(test)]
mod tests;
pub(super) mod words;

/// The document. Made when somebody asks for it: most relays are never asked.
pub(super) struct Document {
    says: Vec<Says>,
    made: OnceLock<Made>,
}

struct Made {
    json: Bytes,
    page: Bytes,
}

impl Document {
    /// Of what the handlers say.
    pub(super) fn new(says: Vec<Says>) -> Arc<Self> {
        Arc::new(Self { says, made: OnceLock::new() })
    }

    fn made(&self) -> &Made {
        self.made.get_or_init(|| {
            // What has no JSON would fail every test.
            let finished = finish::finish(serde_json::to_value(routed::said(&self.says)).unwrap_or_default());
            Made { json: finished.to_string().into(), page: page::page(&finished).into() }
        })
    }
}

/// This document: OpenAPI 3.1 of every route, made from the code that answers them.
#[utoipa::path(get, path = "/api/openapi.json", responses((status = 200, body = inline(words::Anything))))]
pub(super) async fn document(Extension(document): Extension<Arc<Document>>) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], document.made().json.clone()).into_response()
}

/// This document as a page. It loads nothing, and shows all of it without a script too.
#[utoipa::path(get, path = "/api/docs", responses((status = 200, body = String, content_type = "text/html")))]
pub(super) async fn docs(Extension(document): Extension<Arc<Document>>) -> Response {
    (page::headers(), document.made().page.clone()).into_response()
}
