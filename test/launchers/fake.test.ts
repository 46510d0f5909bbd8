import { ManualClock } from '../../src/base/clock.ts'
import { Random } from '../../src/base/random.ts'
import { FakeLauncher, FakeMachine, type FakeProgram, noFaults } from './fake-launcher.ts'
import { type LauncherHarness, launcherSuite } from './suite.ts'

const polite = { afterMs: 20, exitCode: 0 }
const hourMs = 3_600_000

const kinds: Record<
  string,
  (argument: string[], environment: Record<string, string>) => Partial<FakeProgram>
> = {
  exits: ([code]) => ({ exitCode: Number(code) }),
  prints: (lines) => ({ lines }),
  variable: ([name], environment) => ({ lines: [environment[name!] ?? ''] }),
  waits: () => ({ durationMs: hourMs }),
  stubborn: () => ({ durationMs: hourMs, onTerm: 'ignore' }),
  missing: () => ({ failsToStart: 'missing could not be started' }),
}

async function openFake(repeat: number): Promise<LauncherHarness> {
  const clock = new ManualClock(1_700_000_000_000)
  const machine = new FakeMachine(
    clock,
    { h100: 2 },
    ({ command, environment, memberEnvironments }, member) => {
      const [kind, ...argument] = command
      const own = kinds[kind!]!(argument, { ...environment, ...memberEnvironments?.[member] })
      return { startMs: 5, durationMs: 10, exitCode: 0, onTerm: polite, ...own }
    },
  )
  const open = () =>
    repeat === 0
      ? new FakeLauncher(machine)
      : new FakeLauncher(machine, { ...noFaults, repeat }, new Random(11))
  return {
    launcher: open(),
    restarted: open,
    folder: '/',
    programs: {
      exits: (code) => ['exits', String(code)],
      prints: (...lines) => ['prints', ...lines],
      printsVariable: (name) => ['variable', name],
      waits: () => ['waits'],
      stubborn: () => ['stubborn'],
      missing: () => ['missing'],
    },
    until: async (condition) => {
      for (let step = 0; !(await condition()); step++) {
        if (step > 10_000) throw new Error('it did not come to be')
        clock.advance(1)
        machine.settle()
      }
    },
    starts: (run, member) =>
      machine
        .lives()
        .filter((life) => life.run === run && life.index === member && life.startMs !== undefined).length,
    [Symbol.asyncDispose]: async () => undefined,
  }
}

launcherSuite('fake', () => openFake(0))
launcherSuite('fake that does everything twice', () => openFake(1))
