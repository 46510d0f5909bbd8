/** `ropeway serve` as a user starts it, from the source tree, ended with its scope. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { UserError } from '../../src/base/errors.ts'
import { runnerOf } from '../../src/base/processes.ts'

export interface ServeProcess extends AsyncDisposable {
  url: string
}

const main = fileURLToPath(new URL('../../src/cli/main.ts', import.meta.url))

/** Resolves when it answers; `args` stand behind the model. */
export async function startServe(modelPath: string, args: readonly string[]): Promise<ServeProcess> {
  const command = [...runnerOf(main), main, 'serve', modelPath, ...args, '--port', '0']
  const child = spawn(process.execPath, command, { stdio: ['ignore', 'ignore', 'pipe'] })
  let said = ''
  const url = await new Promise<string>((resolve, reject) => {
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      said += text
      const [, found] = /answers at (http:\S+)\/v1/.exec(said) ?? []
      if (found !== undefined) resolve(found)
    })
    child.once('exit', () => reject(new UserError(`ropeway serve ended: ${said}`)))
  })
  return {
    url,
    [Symbol.asyncDispose]: async () => {
      const exited = once(child, 'exit')
      child.kill('SIGKILL')
      await exited
    },
  }
}
