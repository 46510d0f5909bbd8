import { randomBytes, scrypt, timingSafeEqual } from 'node:crypto'
import { Refused } from '../../api/control/problem.ts'
import { assert } from '../../base/assert.ts'

export interface ScryptCost {
  /** Work and memory: 128 bytes x blocks x n. */
  readonly n: number
  readonly blocks: number
  readonly lanes: number
}

/** 64 MiB and about 150 ms on one core (OWASP's second choice is n = 2^16, r = 8, p = 2). */
export const passwordCost: ScryptCost = { n: 2 ** 16, blocks: 8, lanes: 1 }

const hashBytes = 32
/** Each takes its 64 MiB while it runs. */
const hashesAtOnceMax = 4
const hashesWaitingMax = 64

/** `scrypt$n$r$p$salt$hash`, salt and hash in base64url (RFC 7914). */
export async function hashPassword(password: string, cost: ScryptCost): Promise<string> {
  const salt = randomBytes(16)
  const hash = await derive(password, salt, cost)
  const numbers = [cost.n, cost.blocks, cost.lanes].join('$')
  return `scrypt$${numbers}$${salt.toString('base64url')}$${hash.toString('base64url')}`
}

/** Costs the same time when there is no such person (`stored` undefined, `unknownCost` what a hash costs now). */
export async function verifyPassword(
  password: string,
  stored: string | undefined,
  unknownCost: ScryptCost,
): Promise<boolean> {
  if (stored === undefined) {
    await derive(password, Buffer.alloc(16), unknownCost)
    return false
  }
  const [scheme, n, blocks, lanes, salt, hash] = stored.split('$')
  assert(scheme === 'scrypt' && hash !== undefined, 'stored passwords are scrypt hashes of ours')
  const cost = { n: Number(n), blocks: Number(blocks), lanes: Number(lanes) }
  const derived = await derive(password, Buffer.from(salt!, 'base64url'), cost)
  return timingSafeEqual(derived, Buffer.from(hash, 'base64url'))
}

let running = 0
const waiting: (() => void)[] = []

async function derive(password: string, salt: Buffer, { n, blocks, lanes }: ScryptCost): Promise<Buffer> {
  if (running >= hashesAtOnceMax) {
    if (waiting.length >= hashesWaitingMax)
      throw new Refused('limit_reached', 'Too many people are logging in at this moment.', {
        fix: 'Try again in a few seconds.',
      })
    await new Promise<void>((resolve) => waiting.push(resolve))
  } else running++
  try {
    return await new Promise((resolve, reject) =>
      scrypt(
        // One form for what looks the same, however a keyboard composes it.
        password.normalize('NFKC'),
        salt,
        hashBytes,
        { N: n, r: blocks, p: lanes, maxmem: 256 * n * blocks },
        (error, key) => (error === null ? resolve(key) : reject(error)),
      ),
    )
  } finally {
    // Hands its place on, or gives it back.
    const next = waiting.shift()
    if (next === undefined) running--
    else next()
  }
}
