import { basename, resolve } from 'node:path'
import { type Command, Option } from 'commander'
import { systemClock } from '../../base/clock.ts'
import { UserError } from '../../base/errors.ts'
import { writeFileAtomic } from '../../base/files.ts'
import { createLogger } from '../../base/log.ts'
import { createOpenAiServer } from '../../openai/server.ts'
import { UsageLog } from '../../openai/usage-log.ts'
import type { Pooling } from '../../serve/request.ts'
import { ConstraintThread } from '../constraint-maker.ts'
import { EncoderThread } from '../encoder.ts'
import { damageIn, type EngineFlags, launchEngine, withEngineOptions } from '../engine-options.ts'
import { type ListenFlags, listen, refuseOpenDoor, withListenOptions } from '../listening.ts'
import { collect } from '../options.ts'
import { shutdownSignal } from '../shutdown.ts'
import { bold, cyan, note } from '../terminal.ts'
import { loadTextModel, resolveModel, type TextModel } from '../text-model.ts'

export interface ServeFlags extends EngineFlags, ListenFlags {
  name?: string
  apiKey?: string[]
  gatewayKey?: string[]
  adapter?: string[]
  adapterRoot?: string[]
  usage?: string
  pooling?: Pooling
}

export const defaultPort = 8765

export function serveCommand(program: Command): void {
  const command = program
    .command('serve')
    .description('serve a Hugging Face folder or a GGUF file over the OpenAI API')
    .argument('<model>', 'folder, .gguf file, or the name of a model in the models folder')
    .option('--name <id>', "the model's name in the API (default: its file name)")
    .option(
      '--api-key <key>',
      'take only requests with this key (repeatable; also ROPEWAY_API_KEYS, separated by commas)',
      collect,
    )
    .option(
      '--gateway-key <key>',
      'a key for `ropeway gateway`, which may speak for its clients and continue streams of other servers ' +
        '(repeatable; also ROPEWAY_GATEWAY_KEYS)',
      collect,
    )
    .option(
      '--adapter <name=folder>',
      'serve this PEFT adapter of the model under a name of its own (repeatable)',
      collect,
    )
    .option(
      '--adapter-root <folder>',
      'let POST /v1/adapters load adapters below this folder while serving (repeatable)',
      collect,
    )
    .addOption(
      new Option(
        '--pooling <how>',
        "how embeddings are made of the tokens' states (default: what the model's files say, else mean)",
      ).choices(['mean', 'last']),
    )
    .option('--usage <file>', 'write down what every request used, a line of JSON each')
  withEngineOptions(withListenOptions(command, defaultPort)).action(
    async (given: string, flags: ServeFlags) => {
      const model = loadTextModel(resolveModel(given))
      await serveUntilStopped(model, flags.name ?? basename(given).replace(/\.gguf$/, ''), flags)
    },
  )
}

/** Serves until a signal comes; then finishes what runs and refuses what is new. */
export async function serveUntilStopped(
  model: TextModel,
  name: string,
  flags: ServeFlags,
  onListening?: (url: string) => void,
): Promise<void> {
  const apiKeys = keysOf(flags.apiKey, process.env.ROPEWAY_API_KEYS)
  const gatewayKeys = keysOf(flags.gatewayKey, process.env.ROPEWAY_GATEWAY_KEYS)
  refuseOpenDoor(flags.host, [...apiKeys, ...gatewayKeys], 'Add --api-key KEY (or ROPEWAY_API_KEYS)')
  const adapters = (flags.adapter ?? []).map((given) => adapterOf(given, name))
  const stop = shutdownSignal()
  const encoder = new EncoderThread(model.path)
  const constraints = new ConstraintThread(model.path)
  const engine = await launchEngine(model.path, flags, {
    signal: stop.signal,
    adapters: adapters.map(({ folder }) => folder),
  })
  const usageLog =
    flags.usage === undefined ? undefined : new UsageLog(resolve(flags.usage), systemClock, { onFault: note })
  const server = createOpenAiServer({
    engine,
    ...(usageLog !== undefined && { usageLog }),
    tokenizer: model.tokenizer,
    encodeLong: (text, options) => encoder.encode(text, options),
    checkConstraint: (constraint) => constraints.check(constraint),
    ...(model.template !== undefined && { template: model.template }),
    models: [{ id: name, created: Math.floor(systemClock.unixMs() / 1000) }],
    ...(apiKeys.length > 0 && { apiKeys }),
    ...(gatewayKeys.length > 0 && { gatewayKeys }),
    ...(flags.adapterRoot !== undefined && { adapterRoots: flags.adapterRoot }),
    adapterDamage: (folder) => damageIn([folder]),
    ...(flags.origin !== undefined && { origins: flags.origin }),
    defaults: model.defaults,
    pooling: flags.pooling ?? model.pooling ?? 'mean',
    log: createLogger('http'),
  })
  try {
    for (const given of adapters) await engine.adapters.publish(given.name, given.folder)
    const url = await listen(server, flags)
    // Whoever launched us finds us by it.
    const addressFile = process.env.ROPEWAY_ADDRESS_FILE
    if (addressFile !== undefined && addressFile !== '') writeFileAtomic(addressFile, url)
    if (onListening === undefined) announce(url, name, model, apiKeys.length + gatewayKeys.length > 0)
    else onListening(url)
    await stop.requested
    note('\nStopping: running requests finish, new ones are refused. Once more ends it now.')
    await server.close(flags.drainLimit * 1000)
  } finally {
    await engine.close(0)
    usageLog?.close()
    await encoder.close()
    await constraints.close()
    stop.dispose()
  }
}

/** NAME=FOLDER */
function adapterOf(given: string, model: string): { name: string; folder: string } {
  const [, name, folder] = /^([^=]+)=(.+)$/.exec(given) ?? []
  if (name === undefined || folder === undefined || name === model) {
    throw new UserError(`--adapter is NAME=FOLDER with a name other than the model's, not '${given}'.`, {
      failure: 'usage',
    })
  }
  return { name, folder: resolve(folder) }
}

function keysOf(given: readonly string[] | undefined, variable: string | undefined): string[] {
  return [...(given ?? []), ...(variable ?? '').split(',').filter(Boolean)]
}

export function announce(url: string, name: string, model: TextModel, keyed: boolean): void {
  const key = keyed ? " -H 'authorization: Bearer KEY'" : ''
  note(`\n${bold(name)} answers at ${cyan(`${url}/v1`)}\n`)
  note(`  curl ${url}/v1/completions${key} -H 'content-type: application/json' \\`)
  note(`    -d '{"model": "${name}", "prompt": "Once upon a time", "max_tokens": 64}'`)
  if (model.template !== undefined) note(`  and ${url}/v1/chat/completions for chat`)
  note('\nCtrl-C stops it.')
}
