/** Who may do what. Leaving a verb of a noun out does not compile. */

/** Ascending: each may do what those before it may. */
export const projectRoles = ['guest', 'develop', 'maintain', 'admin'] as const
export type ProjectRole = (typeof projectRoles)[number]

export const organisationRoles = ['member', 'owner'] as const
export type OrganisationRole = (typeof organisationRoles)[number]

/** Everything that lives in a project. */
export const nouns = [
  'project',
  'member',
  'key',
  'credential',
  'audit',
  'dataset',
  'checkpoint',
  'model',
  'machine',
  'job',
  'deployment',
  'usage',
] as const
export type Noun = (typeof nouns)[number]

/** `use`: let something run with it, or ask it (a deployment), without reading or changing it. */
export const verbs = ['view', 'create', 'edit', 'delete', 'use'] as const
export type Verb = (typeof verbs)[number]

/** The least role in the project that may; null where nobody may through the project. */
export const leastRoles: {
  readonly [N in Noun]: { readonly [V in Verb]: ProjectRole | null }
} = {
  project: { view: 'guest', create: null, edit: 'admin', delete: 'admin', use: null },
  member: { view: 'guest', create: 'admin', edit: 'admin', delete: 'admin', use: null },
  key: { view: 'develop', create: 'develop', edit: 'maintain', delete: 'develop', use: null },
  credential: { view: 'develop', create: 'maintain', edit: 'maintain', delete: 'maintain', use: 'develop' },
  audit: { view: 'maintain', create: null, edit: null, delete: null, use: null },
  dataset: { view: 'guest', create: 'develop', edit: 'develop', delete: 'develop', use: 'develop' },
  checkpoint: { view: 'guest', create: 'develop', edit: 'develop', delete: 'develop', use: 'develop' },
  model: { view: 'guest', create: 'develop', edit: 'develop', delete: 'maintain', use: 'develop' },
  machine: { view: 'guest', create: 'admin', edit: 'admin', delete: 'admin', use: 'develop' },
  job: { view: 'guest', create: 'develop', edit: 'develop', delete: 'develop', use: null },
  deployment: { view: 'guest', create: 'maintain', edit: 'maintain', delete: 'maintain', use: 'guest' },
  usage: { view: 'guest', create: null, edit: 'admin', delete: null, use: null },
}

export type Permission = `${Noun}:${Verb}`

/**
 * Who may call an endpoint: anybody (`public`); who is signed in (`signed_in`); who runs the service (`operator`);
 * a member or an owner of the organisation in the path; who has a permission in the project in the path.
 */
export type Access =
  | 'public'
  | 'signed_in'
  | 'operator'
  | 'organisation:view'
  | 'organisation:edit'
  | Permission

export function isPermission(access: string): access is Permission {
  const [noun, verb, ...rest] = access.split(':')
  return rest.length === 0 && isNoun(noun) && (verbs as readonly (string | undefined)[]).includes(verb)
}

export function roleAllows(role: ProjectRole, permission: Permission): boolean {
  const [noun, verb] = permission.split(':') as [Noun, Verb]
  const least = leastRoles[noun][verb]
  return least !== null && projectRoles.indexOf(role) >= projectRoles.indexOf(least)
}

/** Scopes of a key: `job:view`, `job:*` (all of a noun), `*:view`, or `*`. */
export function isScope(text: string): boolean {
  if (text === '*') return true
  const [noun, verb, ...rest] = text.split(':')
  if (rest.length > 0 || verb === undefined) return false
  return (noun === '*' || isNoun(noun)) && (verb === '*' || (verbs as readonly string[]).includes(verb))
}

export function scopesAllow(scopes: readonly string[], permission: Permission): boolean {
  const [noun, verb] = permission.split(':')
  return scopes.some((scope) => {
    if (scope === '*') return true
    const [scopeNoun, scopeVerb] = scope.split(':')
    return (scopeNoun === '*' || scopeNoun === noun) && (scopeVerb === '*' || scopeVerb === verb)
  })
}

function isNoun(text: string | undefined): text is Noun {
  return (nouns as readonly (string | undefined)[]).includes(text)
}
