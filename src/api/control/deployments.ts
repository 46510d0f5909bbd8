/** Deployments as users ask for them and see them; browser and client share these. */
import { z } from 'zod'
import { endpoint } from './endpoint.ts'
import { engineFields, engineSeen } from './engine-flags.ts'
import { pageOf, pageQuery, queryInteger } from './fields.ts'

const name = z
  .string()
  .regex(
    /^[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?$/,
    'Expected 1 to 63 of a-z, 0-9, . _ -, a letter or digit at both ends',
  )
const seconds = (most: number) => z.number().min(0).max(most)

/** What a version computes with; changing any of it makes a new version. */
export const versionInput = z.strictObject({
  /**
   * A model of the project (`name`, `name@2`, `name:prod`), a checkpoint of it (`checkpoint:NAME`, or its id), or
   * `local:NAME`: a folder or GGUF file in the models folder on the machine of the service.
   */
  model: z.string().min(1).max(4096),
  /** Clients' name of an adapter -> what it is, named as models are. */
  adapters: z.record(name, z.string().min(1).max(4096)).default({}),
  /** Of each replica; without it the processor alone. */
  devices: z
    .strictObject({ type: z.string().min(1).max(40), count: z.int().min(1).max(64).default(1) })
    .optional(),
  /** Flags of `ropeway serve` without their dashes: `{"context": 4096, "threads": 8}`. */
  engine: z.strictObject(engineFields).default({}),
})
export type VersionInput = z.output<typeof versionInput>

export const scaling = z
  .strictObject({
    min: z.int().min(0).max(256).default(1),
    max: z.int().min(1).max(256).default(1),
    /** Requests, running and waiting, that one replica should have at most. */
    requestsPerReplica: z.number().positive().max(10_000).default(16),
    /** With p90 of the time to first token above it there is a replica more. */
    firstTokenGoalMs: z.number().positive().optional(),
    /** Without a request for so long the last replica goes, where `min` is 0. */
    idleSeconds: seconds(86_400).default(600),
    /** Replicas too many go after so long. */
    downAfterSeconds: seconds(86_400).default(300),
  })
  .refine(({ min, max }) => min <= max, { message: 'min is above max', path: ['min'] })
export type Scaling = z.output<typeof scaling>

/** How an answer is judged. */
export const expectation = z.union([
  z.strictObject({ exact: z.string().max(100_000) }),
  z.strictObject({ regex: z.string().min(1).max(1000) }),
  z.strictObject({ jsonSchema: z.record(z.string(), z.unknown()) }),
])
export type Expectation = z.output<typeof expectation>

/** Questions that a new version must answer before it gets any traffic. */
export const gate = z.strictObject({
  cases: z
    .array(
      z.strictObject({
        /** The request, without `model`; with `messages` it is a chat, with `prompt` a completion. */
        request: z.record(z.string(), z.unknown()),
        expect: expectation,
      }),
    )
    .min(1)
    .max(200),
  /** Share of the cases that must be right. */
  pass: z.number().min(0).max(1).default(1),
})
export type Gate = z.output<typeof gate>

/** When a canary has shown what it is worth. */
export const canaryTest = z.strictObject({
  /** Requests that the canary must have answered. */
  requests: z.int().min(1).max(1_000_000).default(100),
  /** It may fail so much more often than the version before, as a share of requests. */
  errorMargin: z.number().min(0).max(1).default(0.01),
  /** Its p90 of the time to first token may be so many times the other's. */
  latencyFactor: z.number().positive().max(100).default(1.5),
  /** Without a verdict by then it is rolled back. */
  limitSeconds: seconds(30 * 86_400).default(86_400),
})
export type CanaryTest = z.output<typeof canaryTest>

export const rollout = z.strictObject({
  /** Share of the traffic that a new version gets at first; all of it when absent. */
  canary: z.number().gt(0).lt(1).optional(),
  /** Decides about the canary; without one a person does (promote, rollback). */
  test: canaryTest.optional(),
  /** Copies of this share of the requests go to the new version, and their answers nowhere. */
  shadow: z.number().gt(0).max(1).optional(),
  gate: gate.optional(),
  /** How long the version before stays ready to come back at once. */
  keepSeconds: seconds(86_400).default(600),
})
export type Rollout = z.output<typeof rollout>

/** A message through a credential of kind slack when one of these happens. */
export const deploymentNotify = z.strictObject({
  slack: z.string().min(1).max(63),
  on: z
    .array(
      z.enum([
        'created',
        'updated',
        'version_added',
        'rollout_began',
        'gate_passed',
        'shown',
        'promoted',
        'serving',
        'rejected',
        'rolled_back',
        'rollout_ended',
        'refused',
        'moved',
        'deleting',
      ]),
    )
    .default(['serving', 'rejected', 'rolled_back', 'refused', 'moved']),
})
export type DeploymentNotify = z.output<typeof deploymentNotify>

/** What does not make a new version. */
const settings = {
  scaling: scaling.prefault({}),
  rollout: rollout.prefault({}),
  /** Everybody may ask without a key. */
  public: z.boolean().default(false),
  /** Fields of requests that leave them out. */
  defaults: z.record(z.string().min(1).max(100), z.unknown()).default({}),
  /** Requests and answers are written down, for who may edit the deployment. */
  requestLog: z.boolean().default(false),
  notify: deploymentNotify.nullable().default(null),
}

export const deploymentInput = z.strictObject({ name, ...settings, version: versionInput })
export type DeploymentInput = z.output<typeof deploymentInput>

export const deploymentUpdate = z.strictObject({
  scaling: scaling.optional(),
  rollout: rollout.optional(),
  public: z.boolean().optional(),
  defaults: settings.defaults.unwrap().optional(),
  requestLog: z.boolean().optional(),
  notify: deploymentNotify.nullable().optional(),
  /** A new version; it goes through the rollout. */
  version: versionInput.optional(),
})
export type DeploymentUpdate = z.output<typeof deploymentUpdate>

export const deploymentStates = ['starting', 'ready', 'idle', 'degraded', 'failing', 'deleting'] as const
export type DeploymentState = (typeof deploymentStates)[number]

export const replicaView = z.strictObject({
  id: z.string(),
  version: z.string(),
  phase: z.enum(['starting', 'ready', 'draining']),
  since: z.number(),
  running: z.number().optional(),
  waiting: z.number().optional(),
})

export const deploymentView = z.strictObject({
  id: z.string(),
  name: z.string(),
  project: z.string(),
  state: z.enum(deploymentStates),
  message: z.string(),
  /** The version that answers, and what gets a part of the traffic beside it. */
  serving: z.string().nullable(),
  target: z.string(),
  candidate: z
    .strictObject({ version: z.string(), share: z.number(), shadow: z.number(), since: z.number() })
    .nullable(),
  versions: z.array(
    versionInput.extend({
      engine: engineSeen,
      id: z.string(),
      at: z.number(),
      /** What its names meant when it was made: `{"chat": "model chat@3"}`. */
      made_of: z.record(z.string(), z.string()),
    }),
  ),
  replicas: z.array(replicaView),
  scaling,
  rollout,
  public: z.boolean(),
  requestLog: z.boolean(),
  notify: deploymentNotify.nullable(),
  defaults: z.record(z.string(), z.unknown()),
  /** Where OpenAI's API is: `http://127.0.0.1:8700/v1`; null until the gateway listens. */
  url: z.string().nullable(),
  createdAt: z.number(),
  updatedAt: z.number(),
})
export type DeploymentView = z.output<typeof deploymentView>

export const deploymentEvent = z.object({
  id: z.string(),
  at: z.number(),
  kind: z.string(),
  message: z.string(),
})

const one = '/projects/:project/deployments/:deployment'

export const listDeployments = endpoint({
  name: 'deployments.list',
  method: 'GET',
  path: '/projects/:project/deployments',
  summary: 'Deployments of a project.',
  access: 'deployment:view',
  query: pageQuery,
  answer: pageOf(deploymentView),
})

export const createDeployment = endpoint({
  name: 'deployments.create',
  method: 'POST',
  once: true,
  path: '/projects/:project/deployments',
  summary: 'Serve a model under a name.',
  access: 'deployment:create',
  body: deploymentInput,
  answer: deploymentView,
})

export const showDeployment = endpoint({
  name: 'deployments.show',
  method: 'GET',
  path: one,
  summary: 'A deployment as it is: versions, replicas, what serves.',
  access: 'deployment:view',
  answer: deploymentView,
})

export const updateDeployment = endpoint({
  name: 'deployments.update',
  method: 'PATCH',
  path: one,
  summary: 'Change settings, or bring in a new version, which goes through the rollout.',
  access: 'deployment:edit',
  body: deploymentUpdate,
  answer: deploymentView,
})

export const rollbackDeployment = endpoint({
  name: 'deployments.rollback',
  method: 'POST',
  once: true,
  path: `${one}/rollback`,
  summary: 'Back to a version that has served, at once.',
  access: 'deployment:edit',
  body: z.strictObject({ version: z.string().min(1).max(20).optional() }),
  answer: deploymentView,
})

export const promoteDeployment = endpoint({
  name: 'deployments.promote',
  method: 'POST',
  once: true,
  path: `${one}/promote`,
  summary: 'Give the version on its way all of the traffic.',
  access: 'deployment:edit',
  answer: deploymentView,
})

export const deleteDeployment = endpoint({
  name: 'deployments.delete',
  method: 'DELETE',
  path: one,
  summary: 'Let its replicas finish what they do and remove it.',
  access: 'deployment:delete',
  answer: 'nothing',
})

export const deploymentEvents = endpoint({
  name: 'deployments.events',
  method: 'GET',
  path: `${one}/events`,
  summary: 'What happened to it and why, newest first.',
  access: 'deployment:view',
  query: pageQuery,
  answer: pageOf(deploymentEvent),
})

export const replicaLog = z.object({
  lines: z.array(z.object({ at: z.number(), stream: z.enum(['out', 'err']), text: z.string() })),
  cursor: z.string(),
  /** Nothing comes behind this page. */
  complete: z.boolean(),
})

export const replicaLogs = endpoint({
  name: 'deployments.logs',
  method: 'GET',
  path: `${one}/replicas/:replica/logs`,
  summary: 'What a replica has printed; the cursor of a page gives the next.',
  access: 'deployment:view',
  query: z.strictObject({ cursor: z.string().min(1).max(200).optional() }),
  answer: replicaLog,
})

/** Milliseconds over a window. */
export const windowSummary = z.object({
  count: z.number(),
  mean: z.number(),
  p50: z.number(),
  p90: z.number(),
  p99: z.number(),
})

const latencies = {
  firstTokenMs: windowSummary.optional(),
  perTokenMs: windowSummary.optional(),
  /** From arrival until a replica took the request. */
  queueMs: windowSummary.optional(),
}

const deploymentReport = z.object({
  deployment: z.string(),
  windowMs: z.number(),
  ...latencies,
  versions: z.array(
    z.object({
      ...{ version: z.string(), share: z.number(), requests: z.number(), failures: z.number() },
      ...latencies,
    }),
  ),
  replicas: z.array(
    z.object({
      ...{ replica: z.string(), version: z.string(), state: z.string() },
      ...{ inFlight: z.number(), isEjected: z.boolean() },
      ...latencies,
      /** Its own last word. */
      gauges: z
        .object({
          ...{ running: z.number(), waiting: z.number() },
          cacheBlocks: z.object({ free: z.number(), cached: z.number(), held: z.number() }),
          /** The share of the cache that is in use. */
          cacheUsed: z.number(),
        })
        .nullable(),
    }),
  ),
})

export const deploymentMetrics = endpoint({
  name: 'deployments.metrics',
  method: 'GET',
  path: `${one}/metrics`,
  summary: 'Latencies over a window and the gauges of replicas, as the gateway of this server knows them.',
  access: 'deployment:view',
  query: z.strictObject({ window: queryInteger(10, 1800).default(300) }),
  answer: deploymentReport,
})

const hour = z.string().regex(/^\d{4}-\d\d-\d\dT\d\d$/, 'Expected an hour such as 2026-11-26T15 (UTC).')

export const loggedHours = endpoint({
  name: 'deployments.requests',
  method: 'GET',
  path: `${one}/requests`,
  summary: 'Hours of which requests were logged by this server.',
  access: 'deployment:edit',
  answer: z.object({ hours: z.array(z.string()) }),
})

export const downloadRequests = endpoint({
  name: 'deployments.download',
  method: 'GET',
  path: `${one}/requests/download`,
  summary: 'Logged requests and answers, or training data made of them, one JSON a line.',
  access: 'deployment:edit',
  query: z.strictObject({
    from: hour.optional(),
    to: hour.optional(),
    as: z.enum(['log', 'dataset']).default('log'),
  }),
  answer: 'events',
})
