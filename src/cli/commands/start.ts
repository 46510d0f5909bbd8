import type { Command } from 'commander'
import { wholeNumber } from '../options.ts'
import type { StartFlags } from '../start-service.ts'
import { defaultPort } from './serve.ts'

export function startCommand(program: Command): void {
  program
    .command('start')
    .description('run the service on this machine, with a small starter model of real text that answers')
    .option('--host <address>', 'address to listen on', '127.0.0.1')
    .option(
      '--port <n>',
      'port where the model answers; 0 takes a free one',
      wholeNumber(0, 65535),
      defaultPort,
    )
    .option('--service-port <n>', 'port of the service (default: 8600, or a free one)', wholeNumber(0, 65535))
    .option('--data <folder>', 'where it keeps everything (default: service in the home of Ropeway)')
    .option('--steps <n>', 'train the starter for so many steps instead', wholeNumber(1))
    .option('--threads <n>', 'compute threads (default: every core)', wholeNumber(1, 256))
    // What only a service needs would make every other command start later.
    .action(async (flags: StartFlags) => {
      const steps = flags.steps ?? stepsFromEnvironment()
      const { runStart } = await import('../start-service.ts')
      await runStart({ ...flags, ...(steps !== undefined && { steps }) })
    })
}

/** For tests of the whole path, which cannot wait two minutes. */
function stepsFromEnvironment(): number | undefined {
  const steps = Number(process.env.ROPEWAY_STARTER_STEPS ?? '')
  return Number.isInteger(steps) && steps > 0 ? steps : undefined
}
