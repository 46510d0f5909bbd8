import { z } from 'zod'
import { endpoint } from './endpoint.ts'
import { nounId, pageOf, pageQuery, storableText, time } from './fields.ts'
import { isScope, projectRoles } from './permissions.ts'

const scope = z
  .string()
  .max(60)
  .refine(isScope, 'A scope is * or NOUN:VERB, each of which may be *: job:view, job:*, *:view.')
const scopes = z.array(scope).min(1).max(60)
const count = z.int().min(1).max(1_000_000_000)

export const keyLimits = z.strictObject({
  requestsPerMinute: count.optional(),
  /** Prompt and output together. */
  tokensPerMinute: count.optional(),
  concurrent: z.int().min(1).max(100_000).optional(),
})

export const key = z.object({
  id: nounId,
  name: z.string(),
  /** Its first characters. */
  shown: z.string(),
  person: nounId,
  /** The most that it may be in its project; null for one that acts as its person. */
  role: z.enum(projectRoles).nullable(),
  scopes: z.array(z.string()),
  limits: keyLimits,
  created_at: time,
  expires_at: time.nullable(),
  last_used_at: time.nullable(),
})

/** The key is shown here and never again. */
export const newKey = key.extend({ key: z.string() })

const createFields = {
  name: storableText(100, 1),
  scopes: scopes.default(['*']),
  limits: keyLimits.default({}),
  /** Days from now; without it the key does not expire, or when the key that makes it does. */
  days: z.int().min(1).max(3650).optional(),
}

export const keyFields = { ...createFields, role: z.enum(projectRoles).optional() }

export const listKeys = endpoint({
  name: 'keys.list',
  method: 'GET',
  path: '/projects/:project/keys',
  summary: 'API keys of a project.',
  access: 'key:view',
  query: pageQuery,
  answer: pageOf(key),
})

export const createKey = endpoint({
  name: 'keys.create',
  method: 'POST',
  once: true,
  path: '/projects/:project/keys',
  summary: 'Make an API key for a project: it may do what its scopes say, and never more than who makes it.',
  access: 'key:create',
  body: z.strictObject(keyFields),
  answer: newKey,
})

export const editKey = endpoint({
  name: 'keys.edit',
  method: 'PATCH',
  path: '/projects/:project/keys/:key',
  summary: 'Change the limits of a key, or its name.',
  access: 'key:edit',
  body: z.strictObject({ name: storableText(100, 1).optional(), limits: keyLimits.optional() }),
  answer: key,
})

export const revokeKey = endpoint({
  name: 'keys.delete',
  method: 'DELETE',
  path: '/projects/:project/keys/:key',
  summary: 'Revoke a key; it stops working at once.',
  access: 'key:delete',
  answer: 'nothing',
})

export const listOwnKeys = endpoint({
  name: 'own-keys.list',
  method: 'GET',
  path: '/keys',
  summary: 'Your keys that are of no project.',
  access: 'signed_in',
  query: pageQuery,
  answer: pageOf(key),
})

export const createOwnKey = endpoint({
  name: 'own-keys.create',
  method: 'POST',
  once: true,
  path: '/keys',
  summary: 'Make a key that acts as you, in all of your projects.',
  access: 'signed_in',
  body: z.strictObject(createFields),
  answer: newKey,
})

export const revokeOwnKey = endpoint({
  name: 'own-keys.delete',
  method: 'DELETE',
  path: '/keys/:key',
  summary: 'Revoke a key of yours that is of no project.',
  access: 'signed_in',
  answer: 'nothing',
})
