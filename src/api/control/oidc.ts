/** Log-in through an OpenID provider: authorization code with PKCE, for browsers and for the command line. */
import { z } from 'zod'
import { endpoint } from './endpoint.ts'
import { storableText } from './fields.ts'
import { newSession } from './people.ts'

/** SHA-256 of a verifier in base64url (RFC 7636, section 4.2). */
const challenge = z.string().regex(/^[A-Za-z0-9_-]{43}$/, 'A challenge is a SHA-256 in base64url.')
/** RFC 7636, section 4.1. */
const verifier = z.string().regex(/^[A-Za-z0-9._~-]{43,128}$/, 'A verifier has 43 to 128 characters.')
const code = z.string().min(1).max(10_000)
const given = z.string().max(10_000).optional()

export const viewOidc = endpoint({
  name: 'oidc.view',
  method: 'GET',
  path: '/oidc',
  summary: 'Whether people may log in through an OpenID provider, and what it is called.',
  access: 'public',
  answer: z.object({ enabled: z.boolean(), name: z.string().nullable() }),
})

export const startOidc = endpoint({
  name: 'oidc.start',
  method: 'GET',
  path: '/oidc/start',
  summary: 'Send a browser to the OpenID provider; it comes back logged in, or brings a code to a program.',
  access: 'public',
  query: z.strictObject({
    /** A page of this service, where the browser goes when it is logged in. */
    return_to: z.string().max(2000).optional(),
    /** `http://127.0.0.1:PORT/...` of a program on the same machine, which gets a code there (RFC 8252, section 7.3). */
    redirect: z.string().max(2000).optional(),
    challenge: challenge.optional(),
    /** Comes back to the program as it was. */
    state: z.string().max(200).optional(),
  }),
  answer: 'redirect',
})

export const endOidc = endpoint({
  name: 'oidc.callback',
  method: 'GET',
  path: '/oidc/callback',
  summary: 'Where the OpenID provider sends the browser back to.',
  access: 'public',
  query: z.looseObject({ code: given, state: given, error: given, error_description: given, iss: given }),
  answer: 'redirect',
})

export const tokenOfOidc = endpoint({
  name: 'oidc.token',
  method: 'POST',
  path: '/oidc/token',
  summary: 'Get a session for the code that came to a program.',
  access: 'public',
  body: z.strictObject({ code, verifier, client: storableText(100).optional() }),
  answer: newSession,
})

export const linkOidc = endpoint({
  name: 'oidc.link',
  method: 'POST',
  path: '/oidc/link',
  summary: 'Let the account at the OpenID provider that a code is of log in as whoever asks.',
  access: 'signed_in',
  body: z.strictObject({ code, verifier }),
  answer: 'nothing',
})

export const unlinkOidc = endpoint({
  name: 'oidc.unlink',
  method: 'DELETE',
  path: '/oidc/link',
  summary: 'No longer log in through the OpenID provider.',
  access: 'signed_in',
  answer: 'nothing',
})
