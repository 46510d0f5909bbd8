/** Places of users: their folders and buckets, which are read and never written to. */
import { realpath } from 'node:fs/promises'
import { relative, sep } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { PlaceLink } from '../../api/control/places.ts'
import { UserError } from '../../base/errors.ts'
import { FolderStore } from './folder.ts'
import { HubStore, hubPlaceOf } from './hub.ts'
import { hubEndpoint } from './hub-client.ts'
import { S3Store } from './s3.ts'
import { S3Client, type S3Credential } from './s3-client.ts'
import type { ObjectReader, ObjectStore } from './store.ts'

export type PlaceCredential = 's3' | 'huggingface'

export interface PlaceAccess {
  /** The secret behind a credential's name; throws a UserError when the project has none of that name and kind. */
  credential(project: string, name: string, kind: PlaceCredential): Promise<Readonly<Record<string, string>>>
  /** Folders of the service's machine that may be linked, with all below them. */
  readonly folders: readonly string[]
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
  if (url.protocol === 's3:') return openBucket(url, link, project, access)
  throw new UserError(`${url.protocol}// cannot be linked.`, {
    failure: 'usage',
    fix: 'Link s3://BUCKET/PREFIX, hf://ORG/NAME or file:///FOLDER, or upload the files.',
  })
}

function parsed(text: string): URL {
  if (URL.canParse(text)) return new URL(text)
  throw new UserError(`${JSON.stringify(text.slice(0, 200))} is no address of a place.`, {
    failure: 'usage',
    fix: 'Write s3://BUCKET/PREFIX, hf://ORG/NAME or file:///FOLDER.',
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

async function openFolder(url: URL, allowed: readonly string[]): Promise<ObjectStore> {
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

async function openBucket(
  url: URL,
  link: PlaceLink,
  project: string,
  access: PlaceAccess,
): Promise<ObjectStore> {
  if (link.credential === undefined) {
    throw new UserError(`${url.href} cannot be read without a credential.`, {
      failure: 'usage',
      fix: 'Make one of kind s3 (`ropeway credential create`) and name it.',
    })
  }
  const secret = await access.credential(project, link.credential, 's3')
  const place = {
    bucket: url.hostname,
    prefix: decodeURIComponent(url.pathname).replace(/^\/+|\/+$/g, ''),
    region: link.region ?? secret.region ?? defaultRegion,
    endpoint: webAddress(link.endpoint ?? secret.endpoint),
  }
  return new S3Store(new S3Client(place, s3Credential(secret, link.credential), seedOf(url.href)))
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
      fix: 'Name a credential of kind s3.',
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
