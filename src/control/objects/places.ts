/** Places of users: their folders and buckets, which are read and never written to. */
import { createHash } from 'node:crypto'
import { realpath } from 'node:fs/promises'
import { relative, sep } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { PlaceLink } from '../../api/control/places.ts'
import type { Clock } from '../../base/clock.ts'
import { UserError } from '../../base/errors.ts'
import { AzureReader } from './azure.ts'
import { FolderStore } from './folder.ts'
import { GoogleToken } from './google-token.ts'
import { HubStore, hubPlaceOf } from './hub.ts'
import { hubEndpoint } from './hub-client.ts'
import { S3Store } from './s3.ts'
import { S3Client, type S3Credential } from './s3-client.ts'
import type { ObjectReader } from './store.ts'

export type PlaceCredential = 's3' | 'azure-blob' | 'gcs' | 'huggingface'

export interface PlaceAccess {
  /** The secret behind a credential's name; throws a UserError when the project has none of that name and kind. */
  credential(project: string, name: string, kind: PlaceCredential): Promise<Readonly<Record<string, string>>>
  /** Folders of the service's machine that may be linked, with all below them. */
  readonly folders: readonly string[]
  /** Requests and tokens are dated by it. */
  readonly clock: Clock
}

const defaultRegion = 'us-east-1'

/** Opens what a link names. Throws a UserError when it may not be read, or is no place that we know. */
export async function openPlace(
  link: PlaceLink,
  project: string,
  access: PlaceAccess,
): Promise<ObjectReader> {
  if (link.url.startsWith('hf:')) return openHub(link, project, access)
  const url = parsed(link.url)
  if (url.protocol === 'file:') return openFolder(url, access.folders)
  const open = buckets.get(url.protocol)
  if (open !== undefined) return await open(url, link, project, access)
  throw new UserError(`${url.protocol}// cannot be linked.`, {
    failure: 'usage',
    fix: 'Link s3://, gs:// or az://BUCKET/PREFIX, hf://ORG/NAME or file:///FOLDER, or upload the files.',
  })
}

function parsed(text: string): URL {
  if (URL.canParse(text)) return new URL(text)
  throw new UserError(`${JSON.stringify(text.slice(0, 200))} is no address of a place.`, {
    failure: 'usage',
    fix: 'Write s3://, gs:// or az://BUCKET/PREFIX, hf://ORG/NAME or file:///FOLDER.',
  })
}

/** What is public needs no credential. */
async function openHub(link: PlaceLink, project: string, access: PlaceAccess): Promise<ObjectReader> {
  const place = hubPlaceOf(link.url)
  const secret =
    link.credential === undefined
      ? undefined
      : await access.credential(project, link.credential, 'huggingface')
  const endpoint = webAddress(link.endpoint ?? secret?.endpoint) ?? (process.env.HF_ENDPOINT || hubEndpoint)
  return new HubStore(place, { endpoint, token: secret?.token })
}

async function openFolder(url: URL, allowed: readonly string[]): Promise<ObjectReader> {
  if (url.host !== '') {
    throw new UserError(`${url.href} names another machine.`, {
      failure: 'usage',
      fix: 'Write file:///FOLDER.',
    })
  }
  const folder = fileURLToPath(url)
  const real = await realpath(folder).catch(() => folder)
  const roots = await Promise.all(allowed.map((root) => realpath(root).catch(() => root)))
  // The refusal is the same whether the folder exists: it is not for users to find out what lies on the machine.
  if (!roots.some((root) => isIn(real, root))) {
    throw new UserError(`The folder ${folder} may not be linked.`, {
      failure: 'auth',
      fix: 'Whoever runs the service allows folders by `ropeway up --link-folder FOLDER`; or upload the files.',
    })
  }
  return FolderStore.open(real)
}

function isIn(path: string, root: string): boolean {
  const way = relative(root, path)
  return way === '' || (way !== '..' && !way.startsWith(`..${sep}`))
}

type OpenBucket = (url: URL, link: PlaceLink, project: string, access: PlaceAccess) => Promise<ObjectReader>

const buckets: ReadonlyMap<string, OpenBucket> = new Map([
  ['s3:', openS3],
  ['gs:', openGoogle],
  ['az:', openAzure],
])

/** What a link's credential holds. Throws a UserError when the link names none. */
async function secretOf(
  url: URL,
  { credential }: PlaceLink,
  project: string,
  access: PlaceAccess,
  kind: PlaceCredential,
): Promise<Readonly<Record<string, string>>> {
  if (credential !== undefined) return await access.credential(project, credential, kind)
  throw new UserError(`${url.href} cannot be read without a credential.`, {
    failure: 'usage',
    fix: `Make one of kind ${kind} (\`ropeway credential create\`) and name it.`,
  })
}

function prefixOf(url: URL): string {
  return decodeURIComponent(url.pathname).replace(/^\/+|\/+$/g, '')
}

const googleEndpoint = 'https://storage.googleapis.com'
/** By the key files that they are for: a file of a link is opened by itself, and should not need a token of its own. */
const googleTokens = new Map<string, GoogleToken>()
const googleTokensMax = 100

/** Google's XML API speaks S3's language, with its own tokens or with "HMAC keys". */
async function openGoogle(url: URL, link: PlaceLink, project: string, access: PlaceAccess) {
  const secret = await secretOf(url, link, project, access, 'gcs')
  const place = {
    ...{ bucket: url.hostname, prefix: prefixOf(url), region: link.region ?? 'auto' },
    endpoint: webAddress(link.endpoint ?? secret.endpoint) ?? googleEndpoint,
  }
  const credential =
    secret.service_account === undefined
      ? s3Credential(secret, link.credential ?? '')
      : googleToken(secret.service_account, access.clock)
  return new S3Store(new S3Client(place, credential, seedOf(url.href)))
}

function googleToken(serviceAccount: string, clock: Clock): GoogleToken {
  const name = createHash('sha256').update(serviceAccount).digest('hex')
  const known = googleTokens.get(name)
  if (known !== undefined) return known
  const made = new GoogleToken(serviceAccount, clock)
  if (googleTokens.size >= googleTokensMax) googleTokens.clear()
  googleTokens.set(name, made)
  return made
}

async function openAzure(url: URL, link: PlaceLink, project: string, access: PlaceAccess) {
  const { account, key, sas_token, endpoint } = await secretOf(url, link, project, access, 'azure-blob')
  if (account === undefined || (key === undefined && sas_token === undefined))
    throw new UserError(`The credential ${link.credential} holds neither key nor sas_token.`, {
      failure: 'usage',
      fix: 'Put one of them into it (`ropeway credential replace`).',
    })
  const place = {
    ...{ account, container: url.hostname, prefix: prefixOf(url) },
    endpoint: webAddress(link.endpoint ?? endpoint),
  }
  return new AzureReader(place, key === undefined ? { sasToken: sas_token! } : { key }, access.clock)
}

async function openS3(
  url: URL,
  link: PlaceLink,
  project: string,
  access: PlaceAccess,
): Promise<ObjectReader> {
  const secret = await secretOf(url, link, project, access, 's3')
  const place = {
    bucket: url.hostname,
    prefix: prefixOf(url),
    region: link.region ?? secret.region ?? defaultRegion,
    endpoint: webAddress(link.endpoint ?? secret.endpoint),
  }
  return new S3Store(new S3Client(place, s3Credential(secret, link.credential ?? ''), seedOf(url.href)))
}

/** The service asks there in the user's name, so what is no web address is refused. */
function webAddress(endpoint: string | undefined): string | undefined {
  if (endpoint === undefined || endpoint === '') return undefined
  if (URL.canParse(endpoint) && /^https?:$/.test(new URL(endpoint).protocol)) return endpoint
  throw new UserError('An endpoint begins with https:// or http://.', { failure: 'usage' })
}

export function s3Credential(secret: Readonly<Record<string, string>>, name: string): S3Credential {
  const {
    access_key_id: accessKeyId,
    secret_access_key: secretAccessKey,
    session_token: sessionToken,
  } = secret
  if (accessKeyId === undefined || secretAccessKey === undefined) {
    throw new UserError(`The credential ${name} has no access_key_id and secret_access_key.`, {
      failure: 'usage',
      fix: 'Put them into it (`ropeway credential replace`), or name another one.',
    })
  }
  return { accessKeyId, secretAccessKey, sessionToken }
}

/** Servers that wait for one another's retries need different waits, not unguessable ones. */
function seedOf(text: string): number {
  let seed = process.pid
  for (let i = 0; i < text.length; i++) seed = (Math.imul(seed, 31) + text.charCodeAt(i)) >>> 0
  return seed
}
