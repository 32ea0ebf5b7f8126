// A control plane that wants to know who calls: oidc-provider from npm, and a guard in front of the
// services of a local platform that takes the provider's tokens. nginx stands before both.
//
// The guard answers what a cluster answers itself (how one logs in, who one is), looks at the token
// of everything else, and ends a stream when its token ends, as a control plane does.

import { createServer, request as send } from "node:http";
import { Provider } from "oidc-provider";

const options = JSON.parse(process.argv[2]);
const state = {
  seconds: options.seconds,
  codeSeconds: 60,
  refused: new Set(),
  seen: new Set(),
  refresh: new Set(),
  grants: {},
  calls: [],
};

const native = [
  "authorization_code",
  "refresh_token",
  "urn:ietf:params:oauth:grant-type:device_code",
];
const provider = new Provider(options.origin, {
  clients: [
    {
      client_id: "flyte",
      application_type: "native",
      token_endpoint_auth_method: "none",
      grant_types: native,
      redirect_uris: [options.redirect],
    },
    {
      client_id: "robot",
      client_secret: "robot:s3cret/+",
      grant_types: ["client_credentials"],
      redirect_uris: [],
      response_types: [],
    },
    {
      client_id: "machine",
      client_secret: "s3cret/of+the=machine",
      grant_types: ["client_credentials"],
      redirect_uris: [],
      response_types: [],
    },
  ],
  scopes: ["openid", "offline_access", "all"],
  features: {
    clientCredentials: { enabled: true },
    deviceFlow: { enabled: true },
    resourceIndicators: { enabled: false },
  },
  cookies: { keys: ["only for tests"] },
  ttl: {
    AccessToken: () => state.seconds,
    ClientCredentials: () => state.seconds,
    DeviceCode: () => state.codeSeconds,
    Grant: 3600,
    Interaction: 600,
    RefreshToken: 3600,
    Session: 3600,
  },
  issueRefreshToken: async () => true,
  rotateRefreshToken: true,
  findAccount: (_, id) => ({ accountId: id, claims: async () => ({ sub: id }) }),
});
provider.proxy = true;
provider.on("grant.success", (context) => {
  const kind = context.oidc.params.grant_type;
  state.grants[kind] = (state.grants[kind] ?? 0) + 1;
});
provider.on("refresh_token.saved", (token) => state.refresh.add(token));

// Protocol buffers, as far as strings in a message go.
const varint = (n) => (n < 128 ? [n] : [(n & 127) | 128, ...varint(n >>> 7)]);
const field = (number, text) => {
  const bytes = Buffer.from(text);
  return Buffer.concat([Buffer.from([...varint((number << 3) | 2), ...varint(bytes.length)]), bytes]);
};
const message = (...fields) => Buffer.concat(fields.map(([number, text]) => field(number, text)));

const answers = {
  "/flyteidl2.auth.AuthMetadataService/GetOAuth2Metadata": () =>
    message(
      [1, options.origin],
      [2, `${options.origin}/auth`],
      [3, `${options.origin}/token`],
      [10, `${options.origin}/device/auth`],
    ),
  "/flyteidl2.auth.AuthMetadataService/GetPublicClientConfig": () =>
    message(
      [1, "flyte"],
      [2, options.redirect],
      [3, "openid"],
      [3, "offline_access"],
      [3, "all"],
      [4, "flyte-authorization"],
    ),
};

async function owner(text) {
  const value = /^Bearer (\S+)$/.exec(text ?? "")?.[1];
  if (!value || state.refused.has(value)) return null;
  const token = (await provider.AccessToken.find(value)) ?? (await provider.ClientCredentials.find(value));
  if (!token || token.isExpired) return null;
  state.seen.add(value);
  return { subject: token.accountId ?? token.clientId, ends: token.exp * 1000 };
}

const unknown = JSON.stringify({ code: "unauthenticated", message: "the token is missing, over or refused" });
const ending = (error) => {
  const text = Buffer.from(error ? `{"error":${error}}` : "{}");
  const head = Buffer.alloc(5);
  head[0] = 2;
  head.writeUInt32BE(text.length, 1);
  return Buffer.concat([head, text]);
};

function refuse(call, response) {
  if (call.isStream) {
    response.writeHead(200, { "content-type": "application/connect+proto" });
    response.end(ending(unknown));
  } else {
    response.writeHead(401, { "content-type": "application/json" });
    response.end(unknown);
  }
}

const proto = (response, body) => {
  response.writeHead(200, { "content-type": "application/proto" });
  response.end(body);
};

const guard = createServer(async (incoming, response) => {
  const path = incoming.url;
  if (path.startsWith("/admin/")) return admin(path, response);
  const isStream = (incoming.headers["content-type"] ?? "").startsWith("application/connect+proto");
  const call = { path, isStream, id: incoming.headers["x-request-id"], who: null };
  if (path.startsWith("/flyteidl2.")) state.calls.push(call);
  if (answers[path]) {
    incoming.resume();
    return proto(response, answers[path]());
  }
  let who = null;
  if (path.startsWith("/flyteidl2.")) {
    who = await owner(incoming.headers["flyte-authorization"]);
    if (!who) {
      incoming.resume();
      return refuse(call, response);
    }
    call.who = who.subject;
  }
  if (path.endsWith("IdentityService/UserInfo")) {
    incoming.resume();
    return proto(response, message([1, who.subject]));
  }
  forward(incoming, response, call, who);
});

function forward(incoming, response, call, who) {
  const headers = { ...incoming.headers, host: "localhost" };
  const isUpload = call.path.endsWith("/CreateUploadLocation");
  if (isUpload) delete headers["accept-encoding"];
  const target = { socketPath: options.socket, path: call.path, method: incoming.method, headers };
  const outgoing = send(target, (answer) => {
    if (isUpload) {
      const parts = [];
      answer.on("data", (part) => parts.push(part));
      answer.on("end", () => proto(response, elsewhere(Buffer.concat(parts))));
      return;
    }
    response.writeHead(answer.statusCode, answer.headers);
    response.flushHeaders();
    answer.pipe(response);
    answer.on("error", () => response.destroy());
  });
  outgoing.on("error", () => response.destroy());
  incoming.pipe(outgoing);
  response.on("close", () => outgoing.destroy());
  if (call.isStream) {
    const over = setTimeout(() => {
      outgoing.removeAllListeners("response");
      outgoing.destroy();
      if (!response.headersSent) response.writeHead(200, { "content-type": "application/connect+proto" });
      response.end(ending(unknown));
    }, Math.max(0, who.ends - Date.now()));
    response.on("close", () => clearTimeout(over));
  }
}

// The platform means its own socket; a client of ours comes through nginx.
function elsewhere(body) {
  const length = body[1] & 128 ? (body[1] & 127) | (body[2] << 7) : body[1];
  const start = body[1] & 128 ? 3 : 2;
  const url = body.subarray(start, start + length).toString();
  const moved = url.replace(/^http:\/\/localhost/, options.origin);
  return Buffer.concat([message([1, moved]), body.subarray(start + length)]);
}

async function admin(path, response) {
  const { pathname, searchParams } = new URL(path, "http://localhost");
  if (pathname === "/admin/seconds") state.seconds = Number(searchParams.get("value"));
  if (pathname === "/admin/code-seconds") state.codeSeconds = Number(searchParams.get("value"));
  if (pathname === "/admin/revoke") state.seen.forEach((token) => state.refused.add(token));
  if (pathname === "/admin/revoke-all") {
    state.seen.forEach((token) => state.refused.add(token));
    for (const token of state.refresh) await token.destroy();
    state.refresh.clear();
  }
  if (pathname === "/admin/reset") {
    state.grants = {};
    state.calls = [];
  }
  response.writeHead(200, { "content-type": "application/json" });
  response.end(JSON.stringify({ grants: state.grants, calls: state.calls }));
}

const login = createServer(provider.callback());
login.listen(options.providerPort, "127.0.0.1", () => {
  guard.listen(options.guardPort, "127.0.0.1", () => console.log("ready"));
});
