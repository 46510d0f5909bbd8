/** A local launcher over a temporary folder, with real shell programs that write down their starts. */
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { LocalLauncher, type LocalLauncherOptions } from '../../src/control/launchers/local/local-launcher.ts'
import type { LauncherHarness, Programs } from './suite.ts'

const wrapper = new URL('../../src/cli/run-wrapper.ts', import.meta.url)
const waitMsMax = 60_000

export interface LocalHarness extends LauncherHarness {
  launcher: LocalLauncher
  root: string
  script(text: string): string[]
  /** A launcher over another folder of runs. */
  at(root: string): LocalLauncher
}

export async function openLocal(options: Pick<LocalLauncherOptions, 'engine'> = {}): Promise<LocalHarness> {
  const base = mkdtempSync(join(tmpdir(), 'ropeway-launcher-'))
  const folder = join(base, 'work')
  const root = join(base, 'runs')
  mkdirSync(folder)
  const at = (root: string) => new LocalLauncher({ root, devices: { h100: 2, cpu: 4 }, wrapper, ...options })
  const restarted = () => at(root)
  const launcher = restarted()
  const until = async (condition: () => Promise<boolean>) => {
    const endMs = performance.now() + waitMsMax
    while (!(await condition())) {
      if (performance.now() > endMs) throw new Error(`it did not come to be within ${waitMsMax} ms`)
      await delay(15)
    }
  }
  // Every start of a command leaves a line beside its working directory.
  const script = (text: string) => ['sh', '-c', `echo x >> "starts-$ROPEWAY_RUN-$ROPEWAY_MEMBER"\n${text}`]
  const programs: Programs = {
    exits: (code) => script(`exit ${code}`),
    prints: (...lines) => script(lines.map((line) => `echo ${line}`).join('\n')),
    printsVariable: (name) => script(`echo "$${name}"`),
    // `wait` ends at a signal; a foreground sleep would hold the trap back.
    waits: () => script(`trap 'kill $!; exit 0' TERM\nsleep 600 & wait $!`),
    stubborn: () => script(`trap '' TERM\nwhile :; do sleep 600; done`),
    missing: () => ['ropeway-test-no-such-program'],
  }
  return {
    launcher,
    programs,
    folder,
    root,
    script,
    at,
    restarted,
    until,
    starts: (run, member) => {
      const path = join(folder, `starts-${run}-${member}`)
      return existsSync(path) ? readFileSync(path, 'utf8').split('\n').length - 1 : 0
    },
    [Symbol.asyncDispose]: async () => {
      for (const id of await launcher.listOwned()) await launcher.cancel(id, 0)
      await until(async () => {
        const gone = await Promise.all((await launcher.listOwned()).map((id) => launcher.remove(id)))
        return gone.every(Boolean)
      })
      rmSync(base, { recursive: true, force: true, maxRetries: 9 })
    },
  }
}
