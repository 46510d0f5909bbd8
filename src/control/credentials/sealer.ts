/**
 * Encrypts what must be read again but never shown: AES-256-GCM (NIST SP 800-38D) with a key from a file or a command.
 *
 * A sealed text is bound to what it belongs to: moved into another row it does not open.
 */
import { spawnSync } from 'node:child_process'
import { createCipheriv, createDecipheriv, createHash, createHmac, randomBytes } from 'node:crypto'
import {
  chmodSync,
  existsSync,
  linkSync,
  mkdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { dirname } from 'node:path'
import { messageOf, UserError } from '../../base/errors.ts'

const keyBytes = 32
const nonceBytes = 12
const tagBytes = 16
const keyCommandMsMax = 30_000

export class Sealer {
  readonly #key: Buffer
  /** Says which key sealed a text, and nothing about the key. */
  readonly keyId: string

  constructor(key: Uint8Array) {
    this.#key = Buffer.from(key)
    this.keyId = createHash('sha256').update('ropeway key id').update(key).digest('hex').slice(0, 8)
  }

  /** `owner` is what the text belongs to: a table and an id. */
  seal(text: string, owner: string): string {
    const nonce = randomBytes(nonceBytes)
    const cipher = createCipheriv('aes-256-gcm', this.#key, nonce).setAAD(Buffer.from(owner))
    const sealed = Buffer.concat([nonce, cipher.update(text, 'utf8'), cipher.final(), cipher.getAuthTag()])
    return `v1.${this.keyId}.${sealed.toString('base64url')}`
  }

  /** 32 bytes that only who has the key can tell, for one purpose; the same ones each time. */
  derive(purpose: string): Uint8Array {
    return createHmac('sha256', this.#key).update(`ropeway ${purpose}`).digest()
  }

  /** Throws UserError when another key sealed it, or it was changed or moved. */
  open(sealed: string, owner: string): string {
    const [version, keyId, body] = sealed.split('.')
    if (version !== 'v1' || body === undefined || keyId !== this.keyId)
      throw new UserError(
        `A stored secret was encrypted with the key ${keyId ?? '?'}, and this server has ${this.keyId}.`,
        {
          fix: 'Start the service with the key that it had (--key-file, --key-command), or store the secret anew.',
        },
      )
    const bytes = Buffer.from(body, 'base64url')
    const decipher = createDecipheriv('aes-256-gcm', this.#key, bytes.subarray(0, nonceBytes), {
      authTagLength: tagBytes,
    })
    decipher.setAAD(Buffer.from(owner)).setAuthTag(bytes.subarray(-tagBytes))
    try {
      const text = decipher.update(bytes.subarray(nonceBytes, -tagBytes))
      return Buffer.concat([text, decipher.final()]).toString('utf8')
    } catch (error) {
      throw new UserError(`The stored secret of ${owner} was changed, or moved from elsewhere.`, {
        fix: 'Store the secret anew.',
        cause: error,
      })
    }
  }
}

/** The key in this file, which is made with a new one when it is not there. Only its owner may read it. */
export function sealerFromFile(path: string): Sealer {
  if (!existsSync(path)) makeKeyFile(path)
  if ((statSync(path).mode & 0o077) !== 0)
    throw new UserError(`Others than its owner may read the key file ${path}.`, { fix: `chmod 600 ${path}` })
  return new Sealer(parseKey(readFileSync(path, 'utf8'), path))
}

/** The key that a program prints: it asks a key management service, say. It gets no shell and no arguments. */
export function sealerFromCommand(program: string): Sealer {
  const { status, stdout, error } = spawnSync(program, [], {
    encoding: 'utf8',
    timeout: keyCommandMsMax,
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  if (error !== undefined || status !== 0)
    throw new UserError(
      `The key command ${program} failed: ${error === undefined ? `exit code ${status}` : messageOf(error)}`,
      {
        fix: 'It must be an executable file that prints 32 bytes in base64 or hex.',
      },
    )
  return new Sealer(parseKey(stdout, program))
}

/** Two servers that start at the same time end with the same key: the link is made once. */
function makeKeyFile(path: string): void {
  mkdirSync(dirname(path), { recursive: true, mode: 0o700 })
  const mine = `${path}.${process.pid}`
  writeFileSync(mine, `${randomBytes(keyBytes).toString('base64')}\n`, { mode: 0o600, flush: true })
  chmodSync(mine, 0o600)
  try {
    linkSync(mine, path)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error
  } finally {
    rmSync(mine)
  }
}

function parseKey(text: string, source: string): Buffer {
  const trimmed = text.trim()
  const key = /^[0-9a-f]{64}$/i.test(trimmed) ? Buffer.from(trimmed, 'hex') : Buffer.from(trimmed, 'base64')
  if (key.length === keyBytes) return key
  throw new UserError(`${source} gave no key of 32 bytes.`, {
    fix: 'It must give 32 random bytes in base64 or hex.',
  })
}
