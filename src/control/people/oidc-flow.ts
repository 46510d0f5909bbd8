/**
 * What a log-in through a provider remembers between its steps, kept by the browser or the program itself, encrypted:
 * no row to fill a table with, and any server of several can go on.
 */
import { createHash, randomBytes, timingSafeEqual } from 'node:crypto'
import { Refused } from '../../api/control/problem.ts'
import { UserError } from '../../base/errors.ts'
import type { Sealer } from '../credentials/sealer.ts'
import type { Identity, OidcFlow } from './oidc-provider.ts'

export const flowMs = 10 * 60_000
/** From the browser's redirect to the program's request. */
export const codeMs = 60_000

export interface Program {
  readonly redirect: string
  readonly challenge: string
  readonly state: string
}

export interface KeptFlow {
  readonly nonce: string
  readonly verifier: string
  readonly untilMs: number
  readonly returnTo?: string
  readonly program?: Program
}

export function newFlow(): OidcFlow {
  const secret = () => randomBytes(32).toString('base64url')
  return { state: secret(), nonce: secret(), verifier: secret() }
}

/** Of one log-in: several at a time in one browser do not end one another. */
export function flowCookie(state: string): string {
  return `ropeway_oidc_${state.slice(0, 16)}`
}

export function sealFlow(sealer: Sealer, state: string, flow: KeptFlow): string {
  return sealer.seal(JSON.stringify(flow), `oidc-flow/${state}`)
}

/** Throws Refused when this browser did not begin it, or too long ago. */
export function openFlow(sealer: Sealer, state: string, sealed: string | undefined, nowMs: number): KeptFlow {
  const flow = sealed === undefined ? undefined : opened<KeptFlow>(sealer, sealed, `oidc-flow/${state}`)
  if (flow !== undefined && flow.untilMs > nowMs) return flow
  throw new Refused('unauthenticated', 'This browser began no such log-in, or more than ten minutes ago.', {
    fix: 'Log in again.',
  })
}

interface KeptCode {
  readonly identity: Identity
  readonly challenge: string
  readonly untilMs: number
}

/**
 * A code for a program. It is worth nothing without the verifier, which never left that program, so it need not be
 * remembered that it was used.
 */
export function sealCode(sealer: Sealer, kept: KeptCode): string {
  return sealer.seal(JSON.stringify(kept), 'oidc-code')
}

/** Throws Refused when it is not a code of ours for who has this verifier, or is too old. */
export function openCode(
  sealer: Sealer,
  { code, verifier }: { code: string; verifier: string },
  nowMs: number,
): Identity {
  const kept = opened<KeptCode>(sealer, code, 'oidc-code')
  const challenge = createHash('sha256').update(verifier).digest()
  const isTheirs = kept !== undefined && timingSafeEqual(Buffer.from(kept.challenge, 'base64url'), challenge)
  if (isTheirs && kept.untilMs > nowMs) return kept.identity
  throw new Refused(
    'unauthenticated',
    'This code is not known, was made for another program, or is too old.',
    {
      param: 'code',
      fix: 'Log in again.',
    },
  )
}

function opened<T>(sealer: Sealer, sealed: string, owner: string): T | undefined {
  try {
    return JSON.parse(sealer.open(sealed, owner))
  } catch (error) {
    if (error instanceof UserError) return undefined
    throw error
  }
}
