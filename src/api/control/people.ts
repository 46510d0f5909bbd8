import { z } from 'zod'
import { endpoint } from './endpoint.ts'
import { nounId, storableText, time } from './fields.ts'
import { organisationRoles, projectRoles } from './permissions.ts'
import { code, recoveryCode } from './second-factor.ts'

export const email = z.email().max(254)
export const passwordCharactersMin = 10
const newPassword = z.string().min(passwordCharactersMin).max(1000)
const displayName = storableText(200, 1)
const token = z.string().min(1).max(200)

export const person = z.object({
  id: nounId,
  email: z.string(),
  name: z.string(),
  created_at: time,
  is_operator: z.boolean(),
  second_factor: z.boolean(),
})

/** The token is shown here and never again. */
export const newSession = z.object({
  token: z.string(),
  session: nounId,
  expires_at: time,
  person,
  /** After a log-in with one of them. */
  recovery_codes_left: z.int().optional(),
})

export const signUp = endpoint({
  name: 'people.sign-up',
  method: 'POST',
  path: '/sign-up',
  summary: 'Make an account, by invitation unless sign-up is open, and log in.',
  access: 'public',
  body: z.strictObject({
    email,
    name: displayName,
    password: newPassword,
    invitation: token.optional(),
    client: storableText(100).optional(),
  }),
  answer: newSession,
})

export const logIn = endpoint({
  name: 'people.log-in',
  method: 'POST',
  path: '/log-in',
  summary: 'Log in with a password, and a code where a second factor is set up.',
  access: 'public',
  body: z.strictObject({
    email: z.string().max(254),
    password: z.string().max(1000),
    code: code.optional(),
    recovery_code: recoveryCode.optional(),
    client: storableText(100).optional(),
    /** Sets the session as a cookie too, for a browser. */
    cookie: z.boolean().optional(),
  }),
  answer: newSession,
})

/** What a browser is sent here with: `/sign-in#CODE`. It works once. */
export const createSignInCode = endpoint({
  name: 'sign-in-codes.create',
  method: 'POST',
  path: '/sign-in-codes',
  summary: 'A code that signs a browser in as you, once and within five minutes: for `ropeway console`.',
  access: 'signed_in',
  answer: z.object({ code: z.string(), expires_at: time }),
})

export const useSignInCode = endpoint({
  name: 'sign-in-codes.use',
  method: 'POST',
  path: '/sign-in-codes/use',
  summary: 'Sign this browser in with a code: sets the session as a cookie.',
  access: 'public',
  body: z.strictObject({ code: token }),
  answer: z.object({ person, expires_at: time }),
})

export const logOut = endpoint({
  name: 'people.log-out',
  method: 'POST',
  path: '/log-out',
  summary: 'End the session that asks.',
  access: 'signed_in',
  answer: 'nothing',
})

export const whoAmI = endpoint({
  name: 'people.whoami',
  method: 'GET',
  path: '/whoami',
  summary: 'Who asks, with what, and where they belong.',
  access: 'signed_in',
  answer: z.object({
    person,
    with: z.enum(['session', 'key']),
    key: z.object({ id: nounId, name: z.string(), scopes: z.array(z.string()) }).nullable(),
    organisations: z.array(z.object({ id: nounId, name: z.string(), role: z.enum(organisationRoles) })),
    projects: z.array(z.object({ id: nounId, name: z.string(), role: z.enum(projectRoles) })),
  }),
})

export const changePassword = endpoint({
  name: 'people.password',
  method: 'POST',
  path: '/password',
  summary: 'Change the password; every other session ends.',
  access: 'signed_in',
  body: z.strictObject({ old: z.string().max(1000), new: newPassword }),
  answer: 'nothing',
})

export const session = z.object({
  id: nounId,
  client: z.string(),
  created_at: time,
  last_used_at: time,
  expires_at: time,
  is_this: z.boolean(),
})

export const listSessions = endpoint({
  name: 'sessions.list',
  method: 'GET',
  path: '/sessions',
  summary: 'Where this person is logged in.',
  access: 'signed_in',
  answer: z.object({ items: z.array(session) }),
})

export const endSession = endpoint({
  name: 'sessions.delete',
  method: 'DELETE',
  path: '/sessions/:session',
  summary: 'End a session of this person.',
  access: 'signed_in',
  answer: 'nothing',
})
