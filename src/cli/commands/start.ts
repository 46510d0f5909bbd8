import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { Command } from 'commander'
import { parseTrainingJob } from '../../train/job.ts'
import { withEngineOptions } from '../engine-options.ts'
import { modelsFolder } from '../home.ts'
import { withListenOptions } from '../listening.ts'
import { collect, wholeNumber } from '../options.ts'
import { shutdownSignal } from '../shutdown.ts'
import { starterJob } from '../starter.ts'
import { bold, cyan, note } from '../terminal.ts'
import { loadTextModel, resolveModel } from '../text-model.ts'
import { runShown } from '../training.ts'
import { defaultPort, type ServeFlags, serveUntilStopped } from './serve.ts'

export function startCommand(program: Command): void {
  const command = program
    .command('start')
    .description('train a small starter model on real text when there is none yet, and serve it')
    .option('--api-key <key>', 'take only requests with this key (repeatable)', collect)
    .option('--steps <n>', 'train the starter for so many steps instead', wholeNumber(1))
  withEngineOptions(withListenOptions(command, defaultPort)).action(
    async (flags: ServeFlags & { steps?: number }) => {
      const trained = await trainStarter(flags.steps, flags.threads)
      if (!trained) {
        process.exitCode = 130
        return
      }
      const model = loadTextModel(resolveModel('starter'))
      await serveUntilStopped(model, 'starter', flags, announceStarter)
    },
  )
}

/** False when the user stopped it; the next start goes on from there. */
async function trainStarter(steps: number | undefined, threads: number | undefined): Promise<boolean> {
  const out = join(modelsFolder(), 'starter')
  const packageRoot = join(dirname(fileURLToPath(import.meta.url)), '..')
  const job = parseTrainingJob(
    starterJob({ out, steps: steps ?? stepsFromEnvironment(), threads }),
    packageRoot,
  )
  const stop = shutdownSignal()
  try {
    const result = await runShown(job, stop.signal)
    if (result.outcome === 'finished') return true
    note(`Stopped after step ${result.stepsDone}; the next start goes on from there.`)
    return false
  } finally {
    stop.dispose()
  }
}

/** For tests of the whole path, which cannot wait two minutes. */
function stepsFromEnvironment(): number | undefined {
  const steps = Number(process.env.ROPEWAY_STARTER_STEPS ?? '')
  return Number.isInteger(steps) && steps > 0 ? steps : undefined
}

function announceStarter(url: string): void {
  note(`\n${bold('starter')} answers at ${cyan(`${url}/v1`)}\n`)
  note(`  curl ${url}/v1/completions -H 'content-type: application/json' \\`)
  note(`    -d '{"model": "starter", "prompt": "The people of the United States", "max_tokens": 80}'\n`)
  note('Next, in another terminal:')
  note('  npx ropeway generate starter -p "The whale"     a text in the terminal')
  note('  npx ropeway train examples/shakespeare/job.yml --here   a model of your own')
  note('  npx ropeway serve DIR|FILE.gguf                 any Llama or Qwen2 model\n')
  note('Ctrl-C stops it.')
}
