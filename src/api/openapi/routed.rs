//! One path of the API: who answers it, and what is said of it. That is put together when somebody asks for the document, and not at every
//! start: it takes some megabytes, and most relays are never asked.

use axum::{Router, handler::Handler, routing::MethodRouter};
use utoipa::openapi::{HttpMethod, OpenApi};
use utoipa_axum::{
    PathItemExt,
    router::{OpenApiRouter, UtoipaMethodRouter},
};

use crate::api::Api;

/// A path that is answered; made by [`routes!`].
pub(in crate::api) struct Routed {
    path: String,
    answers: MethodRouter<Api>,
    says: Says,
}

/// What the handlers of a path say of it.
pub(in crate::api) type Says = fn() -> UtoipaMethodRouter<Api>;

impl Routed {
    /// One of which `says` tells.
    pub(in crate::api) fn new(says: Says) -> Self {
        Self { path: String::new(), answers: MethodRouter::new(), says }
    }

    /// With `handler` for these methods; every one of a path names the same.
    pub(in crate::api) fn with<H: Handler<T, Api>, T: 'static>(
        mut self,
        path: String,
        methods: &[HttpMethod],
        handler: H,
    ) -> Self {
        self.path = path;
        self.answers =
            methods.iter().fold(self.answers, |answers, method| answers.on(method.to_method_filter(), handler.clone()));
        self
    }
}

/// A router of all of them.
pub(in crate::api) fn router(routed: Vec<Routed>) -> Router<Api> {
    routed.into_iter().fold(Router::new(), |router, it| router.route(&it.path, it.answers))
}

/// What tells of each of them.
pub(in crate::api) fn says(routed: &[Routed]) -> Vec<Says> {
    routed.iter().map(|it| it.says).collect()
}

/// What they say all together.
pub(super) fn said(says: &[Says]) -> OpenApi {
    says.iter().fold(OpenApiRouter::<Api>::default(), |all, says| all.routes(says())).into_openapi()
}

/// One path: `routes!(things::list, things::make)`, handlers with `#[utoipa::path]` by the name of their file.
macro_rules! routes {
    ($($room:ident::$handler:ident),+) => {{
        use utoipa::Path as _;
        $crate::api::openapi::routed::Routed::new(|| utoipa_axum::routes!($($room::$handler),+))
            $(.with(
                utoipa_axum::paste! { $room::[<__path_ $handler>]::path() },
                &utoipa_axum::paste! { $room::[<__path_ $handler>]::methods() },
                $room::$handler,
            ))+
    }};
}
pub(in crate::api) use routes;
