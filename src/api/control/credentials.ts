import { z } from 'zod'
import { endpoint } from './endpoint.ts'
import { nounId, nounName, pageOf, pageQuery, storableText, time } from './fields.ts'

export const secretCharactersMax = 100_000
const secret = z.string().min(1).max(secretCharactersMax)
const text = storableText(1000, 1)
const url = z.url({ protocol: /^https?$/ }).max(2000)

/** What each kind of credential holds. None of it is ever shown again. */
export const credentialValues = z.discriminatedUnion('kind', [
  z.strictObject({
    kind: z.literal('s3'),
    access_key_id: text,
    secret_access_key: secret,
    session_token: secret.optional(),
    endpoint: url.optional(),
    region: text.optional(),
  }),
  z.strictObject({
    kind: z.literal('azure-blob'),
    account: text,
    /** The account's key, or a signature that somebody made with it. */
    key: secret.optional(),
    sas_token: secret.optional(),
    endpoint: url.optional(),
  }),
  z.strictObject({
    kind: z.literal('gcs'),
    /** The JSON file of a service account, or the two parts of an "HMAC key". */
    service_account: secret.optional(),
    access_key_id: text.optional(),
    secret_access_key: secret.optional(),
    endpoint: url.optional(),
  }),
  z.strictObject({ kind: z.literal('huggingface'), token: secret, endpoint: url.optional() }),
  z.strictObject({ kind: z.literal('docker'), registry: text, username: text, password: secret }),
  z.strictObject({ kind: z.literal('slack'), webhook_url: url }),
  z.strictObject({ kind: z.literal('wandb'), api_key: secret, host: url.optional() }),
  z.strictObject({
    kind: z.literal('mlflow'),
    /** Either this, or a name and a password. */
    token: secret.optional(),
    username: text.optional(),
    password: secret.optional(),
  }),
  z.strictObject({ kind: z.literal('kubernetes'), kubeconfig: secret, context: text.optional() }),
  z.strictObject({
    kind: z.literal('ssh'),
    private_key: secret,
    user: text.optional(),
    passphrase: secret.optional(),
  }),
])

export type CredentialValues = z.output<typeof credentialValues>
export type CredentialKind = CredentialValues['kind']

export const credentialKinds = credentialValues.options.map(({ shape }) => shape.kind.value)

type FieldName = { [Kind in CredentialKind]: Exclude<keyof ValuesOf<Kind>, 'kind'> }[CredentialKind]
type ValuesOf<Kind extends CredentialKind> = Extract<CredentialValues, { kind: Kind }>

/** How a person gives a field: in view, unseen, or as the file that it lies in, whose lines must stay. */
type FieldInput = 'text' | 'url' | 'secret' | 'file'

const inputs: { readonly [Name in FieldName]: FieldInput } = {
  ...{ access_key_id: 'text', secret_access_key: 'secret', session_token: 'secret', region: 'text' },
  ...{ account: 'text', key: 'secret', sas_token: 'secret', service_account: 'file' },
  ...{ endpoint: 'url', host: 'url', registry: 'text', context: 'text' },
  ...{ user: 'text', username: 'text', password: 'secret', token: 'secret', api_key: 'secret' },
  // Who knows it can write there.
  webhook_url: 'secret',
  ...{ kubeconfig: 'file', private_key: 'file', passphrase: 'secret' },
}

export interface CredentialField {
  readonly name: FieldName
  readonly input: FieldInput
  readonly isNeeded: boolean
}

/** What a person is asked for who makes a credential of this kind, in this order. */
export function credentialFields(kind: CredentialKind): CredentialField[] {
  const { shape } = credentialValues.options.find((option) => option.shape.kind.value === kind)!
  return Object.entries(shape).flatMap(([name, schema]) => {
    if (name === 'kind') return []
    const field = name as FieldName
    return [{ name: field, input: inputs[field], isNeeded: !(schema instanceof z.ZodOptional) }]
  })
}

export const credential = z.object({
  id: nounId,
  name: z.string(),
  kind: z.string(),
  /** Names of the fields that are set, never their values. */
  fields: z.array(z.string()),
  created_at: time,
  updated_at: time,
})

export const listCredentials = endpoint({
  name: 'credentials.list',
  method: 'GET',
  path: '/projects/:project/credentials',
  summary: 'Credentials of a project, without what they hold.',
  access: 'credential:view',
  query: pageQuery,
  answer: pageOf(credential),
})

/** What names a credential; jobs while they wait or run, and of datasets the newest version. */
export const credentialUse = z.object({
  /** By name: a use of one that is gone shows what cannot work. */
  credential: z.string(),
  by: z.enum(['dataset', 'checkpoint', 'template', 'job', 'deployment']),
  id: nounId,
  name: z.string(),
})
export type CredentialUse = z.output<typeof credentialUse>

export const listCredentialUses = endpoint({
  name: 'credentials.uses',
  method: 'GET',
  path: '/projects/:project/credential-uses',
  summary: 'What names which credential: links, templates, jobs that wait or run, deployments.',
  access: 'credential:view',
  answer: z.object({ items: z.array(credentialUse) }),
})

export const createCredential = endpoint({
  name: 'credentials.create',
  method: 'POST',
  once: true,
  path: '/projects/:project/credentials',
  summary: 'Store a credential, encrypted; jobs and links refer to it by name.',
  access: 'credential:create',
  body: z.strictObject({ name: nounName, values: credentialValues }),
  answer: credential,
})

export const replaceCredential = endpoint({
  name: 'credentials.replace',
  method: 'PUT',
  path: '/projects/:project/credentials/:credential',
  summary: 'Put other values into a credential.',
  access: 'credential:edit',
  body: z.strictObject({ values: credentialValues }),
  answer: credential,
})

export const deleteCredential = endpoint({
  name: 'credentials.delete',
  method: 'DELETE',
  path: '/projects/:project/credentials/:credential',
  summary: 'Forget a credential.',
  access: 'credential:delete',
  answer: 'nothing',
})
