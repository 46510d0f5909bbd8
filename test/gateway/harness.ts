import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pino } from 'pino'
import { systemClock } from '../../src/base/clock.ts'
import { type Caller, sha256 } from '../../src/control/gateway/keys.ts'
import { Ledger } from '../../src/control/gateway/ledger.ts'
import { type Deployment, ReplicaTable } from '../../src/control/gateway/replicas.ts'
import { Gateway, type GatewayOptions } from '../../src/control/gateway/server.ts'

export interface GatewayHarness extends AsyncDisposable {
  url: string
  gateway: Gateway
  table: ReplicaTable
  ledger: Ledger
  /** What was logged as a bug. */
  errors: string[]
}

/** A gateway over these deployments, without keys unless `verify` is given; it ends with its scope. */
export async function gatewayOver(
  deployments: readonly Deployment[],
  options: Partial<GatewayOptions> = {},
): Promise<GatewayHarness> {
  const folder = mkdtempSync(join(tmpdir(), 'ropeway-gateway-'))
  const table = options.table ?? new ReplicaTable({ deployments })
  const ledger = options.ledger ?? new Ledger(folder, options.clock ?? systemClock)
  const errors: string[] = []
  const gateway = new Gateway({
    seed: 1,
    log: pino({}, { write: (line: string) => void errors.push(line) }),
    ...options,
    table,
    ledger,
    limits: { pauseMs: 1, ...options.limits },
  })
  const url = await gateway.listen(0)
  return {
    url,
    gateway,
    table,
    ledger,
    errors,
    [Symbol.asyncDispose]: async () => {
      await gateway.close(0)
      ledger.close()
      rmSync(folder, { recursive: true, force: true, maxRetries: 9 })
    },
  }
}

/** A verifier that knows these keys by their plain text. */
export function knows(keys: Readonly<Record<string, Partial<Caller>>>) {
  const callers = new Map(
    Object.entries(keys).map(([key, caller]) => [
      sha256(key),
      { key: `id-of-${key}`, project: 'main', limits: {}, ...caller },
    ]),
  )
  return (digest: string): Caller | undefined => callers.get(digest)
}

export const bearer = (key: string) => ({ headers: { authorization: `Bearer ${key}` } })
