/**
 * The child's side of the engine process: loads the model once, then runs the loop and answers messages.
 */
import { systemClock } from '../../base/clock.ts'
import { bytesOf } from '../../base/dtype.ts'
import { messageOf, UserError } from '../../base/errors.ts'
import { createLogger } from '../../base/log.ts'
import { type ConstraintMaker, Constraints, type TokenTexts } from '../../constrain/constraint.ts'
import { readAdapter } from '../../models/adapter.ts'
import { openModel } from '../../models/open.ts'
import { countParameters, type Definition } from '../../models/registry.ts'
import { loadWeights, type Weights } from '../../models/weights.ts'
import { Device } from '../../runtime/device.ts'
import { nativeLog } from '../../runtime/ffi.ts'
import { type Kernels, kernelStatus, plainNote } from '../../runtime/kernels.ts'
import { kernelsNeedBuilding } from '../../runtime/kernels-build.ts'
import { Engine } from '../engine.ts'
import { EngineLoop } from '../engine-loop.ts'
import type { EngineInfo } from '../messages.ts'
import { ModelExecutor } from '../model-executor.ts'
import { schedulerOptions } from '../options.ts'
import { LineFile } from '../trace.ts'
import { loadDraft } from './draft.ts'
import type { EngineSetup, FromProcess, ToProcess } from './protocol.ts'

/** Share of the free memory that the cache takes when nobody says how large it is to be. */
const cacheMemoryShare = 0.25
const cacheTokensMax = 262_144

/** What of a model's texts is needed to hold answers to constraints. */
export interface ConstraintParts {
  /** What each token of the model at this path writes; undefined for tokens that are no text. */
  textsOf(modelPath: string): TokenTexts
  /** Makes the same, and what schemas become, on another thread. */
  makerOf(modelPath: string): ConstraintMaker
}

/** Runs an engine for the parent that forked this process, until it is drained or the parent is gone. */
export function runEngineProcess(parts: ConstraintParts): void {
  const pending: ToProcess[] = []
  let loop: EngineLoop | undefined
  const send = (message: FromProcess) => {
    // A send can race with the parent's death; that it is gone is heard below, and ends this process.
    if (process.connected) process.send?.(message, () => undefined)
  }
  // The parent decides when this process ends; Ctrl-C in a terminal reaches both.
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => undefined)
  process.on('disconnect', () => process.exit(0))
  process.on('message', (message: ToProcess) => {
    if (message.type === 'setup') {
      void run(message.setup, parts, send, (ready) => {
        loop = ready
        for (const early of pending.splice(0)) if (early.type !== 'setup') loop.receive(early)
      })
    } else if (loop !== undefined) loop.receive(message)
    else pending.push(message)
  })
}

async function run(
  setup: EngineSetup,
  parts: ConstraintParts,
  send: (message: FromProcess) => void,
  onLoop: (loop: EngineLoop) => void,
): Promise<void> {
  const log = createLogger('engine')
  nativeLog.write = (_, text) => log.debug(text.trimEnd())
  try {
    await serve(setup, parts, log, send, onLoop)
    send({ type: 'drained' })
    leave()
    process.exit(0)
  } catch (error) {
    const fix = error instanceof UserError ? error.fix : undefined
    if (!(error instanceof UserError)) log.error({ err: error }, 'the engine failed')
    send({ type: 'fatal', message: messageOf(error), ...(fix !== undefined && { fix }) })
    // Leaves the message time to reach the parent, which waits for this exit.
    leave()
    process.exitCode = 1
  }
}

function leave(): void {
  if (process.connected) process.disconnect()
}

function kernelsFor(device: Device, note: (text: string) => void): Kernels | undefined {
  if (!device.isHost) return undefined
  if (kernelsNeedBuilding()) note('Compiling kernels for this machine, once.')
  const status = kernelStatus()
  const plain = plainNote(status)
  if (plain !== undefined) note(plain)
  return status.kernels
}

async function serve(
  setup: EngineSetup,
  parts: ConstraintParts,
  log: ReturnType<typeof createLogger>,
  send: (message: FromProcess) => void,
  onLoop: (loop: EngineLoop) => void,
): Promise<void> {
  const device = new Device({
    ...(setup.device !== undefined && { device: setup.device }),
    ...(setup.threads !== undefined && { threads: setup.threads }),
  })
  using model = openModel(setup.modelPath, setup.contextMax)
  const weights = loadWeights(model, device, {
    quantize: setup.quantize,
    kernels: kernelsFor(device, (text) => send({ type: 'note', text })),
    onProgress: (share) => send({ type: 'loading', share }),
  })
  const { definition } = model
  const cacheTokens = setup.cacheTokens ?? cacheTokensFor(definition, setup, device)
  const executor = new ModelExecutor(definition, weights, device, {
    cacheTokens,
    ...(setup.cacheDtype !== undefined && { cacheDtype: setup.cacheDtype }),
    ...(setup.contextMax !== undefined && { contextMax: setup.contextMax }),
    ...(setup.fastNumerics !== undefined && { fastNumerics: setup.fastNumerics }),
  })
  const onFault = (message: string) => log.warn(message)
  const { traceFile, decisionFile } = setup
  const trace = traceFile === undefined ? undefined : new LineFile(traceFile, { onFault })
  // It holds what was asked and answered, as token ids.
  const decisions =
    decisionFile === undefined ? undefined : new LineFile(decisionFile, { access: 'private', onFault })
  const files = [trace, decisions]
  const options = schedulerOptions(setup.scheduler)
  const draft =
    setup.draftPath === undefined ? undefined : loadDraft(setup.draftPath, setup, executor, options)
  const engine = new Engine(
    executor,
    draft === undefined ? options : { ...options, guessesMax: draft.guessesMax },
    systemClock,
    (items) => send({ type: 'progress', items }),
    {
      ...(trace !== undefined && { trace: (line) => trace.write(line) }),
      ...(decisions !== undefined && { decisions: (decision) => decisions.write(decision) }),
      constraints: new Constraints(() => parts.textsOf(setup.modelPath), parts.makerOf(setup.modelPath)),
      constraintFailed: (message) => log.warn(`A request with a constraint was refused: ${message}`),
      draftFailed: (message) => log.warn(`The draft model failed and is not used any more: ${message}`),
    },
    draft?.proposer,
  )
  const flushing = setInterval(() => {
    for (const file of files) file?.flush()
  }, 250)
  const loop = new EngineLoop(engine, systemClock, send, {
    load: (id, folder) => executor.addAdapter(id, readAdapter(folder, definition).layers),
    unload: (id) => executor.removeAdapter(id),
  })
  onLoop(loop)
  send({ type: 'ready', info: infoOf(setup, definition, weights, device, executor) })
  await loop.run()
  clearInterval(flushing)
  for (const file of files) file?.close()
  draft?.dispose()
  executor.dispose()
  weights[Symbol.dispose]()
  device.dispose()
}

function infoOf(
  setup: EngineSetup,
  definition: Definition,
  weights: Weights,
  device: Device,
  executor: ModelExecutor,
): EngineInfo {
  const { shape } = executor
  const parameters = countParameters(definition)
  return {
    model: setup.modelPath,
    architecture: definition.config.modelType,
    parameters: parameters.all,
    activeParameters: parameters.active,
    vocabularySize: shape.vocabularySize,
    width: definition.config.width,
    contextMax: shape.contextMax,
    cacheTokens: shape.blockCount * shape.blockTokens,
    device: device.description || device.name,
    threads: device.threads,
    kernels: executor.kernelSet,
    weightBytes: weights.bytes,
    cacheBytes: executor.cache.bytes,
  }
}

/** Room for eight whole contexts, if a quarter of the free memory holds them. */
function cacheTokensFor(
  { config }: Definition,
  { contextMax, cacheDtype }: EngineSetup,
  device: Device,
): number {
  const perLayer = bytesOf(cacheDtype ?? 'F16', config.keyValueHeads * config.headWidth)
  const tokenBytes = config.layers * perLayer * 2
  const affordable = Math.floor((device.freeBytes * cacheMemoryShare) / tokenBytes)
  const context = Math.min(contextMax ?? config.contextMax, config.contextMax)
  return Math.max(1024, Math.min(cacheTokensMax, 8 * context, affordable))
}
