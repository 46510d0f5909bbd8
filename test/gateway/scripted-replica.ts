/** A replica of the gateway's tests: the real HTTP surface of an engine, over an engine that reads from a script. */

import type { Deployment, Replica, Version } from '../../src/control/gateway/replicas.ts'
import type { OpenAiServerOptions } from '../../src/openai/server.ts'
import { type Harness, harness } from '../openai/harness.ts'

export const gatewayKey = 'gateway-key-of-tests'

export interface ScriptedReplica extends Harness {
  replica: Replica
}

/** `ropeway serve --gateway-key` as a test sees it. */
export async function scriptedReplica(
  id: string,
  options: Partial<OpenAiServerOptions> = {},
): Promise<ScriptedReplica> {
  const served = await harness({ gatewayKeys: [gatewayKey], ...options })
  return Object.assign(served, {
    replica: { id, url: served.url, key: gatewayKey, state: 'ready' as const },
  })
}

export function version(replicas: readonly Replica[], fields: Partial<Version> = {}): Version {
  return { id: 'v1', share: 1, model: 'tiny/bytes', adapters: {}, replicas, ...fields }
}

export function deployment(name: string, fields: Partial<Deployment> = {}): Deployment {
  return {
    name,
    project: 'main',
    created: 1_700_000_000,
    public: false,
    versions: [version([])],
    defaults: {},
    ...fields,
  }
}
