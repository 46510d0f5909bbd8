/** `npm start`: the service on this machine, and the starter in it. Loaded by that command alone, databases and all. */
import { existsSync } from 'node:fs'
import { join, relative } from 'node:path'
import { Client } from '../api/control/client.ts'
import type { DeploymentView } from '../api/control/deployments.ts'
import { UserError } from '../base/errors.ts'
import { ownFile } from '../base/files.ts'
import { firstProject } from '../control/people/first-owner.ts'
import { signInAddress } from './commands/console.ts'
import { modelsFolder } from './home.ts'
import { isLoopback } from './listening.ts'
import { contextOf } from './service-context.ts'
import { dataOf } from './service-data.ts'
import { shutdownSignal } from './shutdown.ts'
import { makeStarter, starterName, starterTexts } from './starter.ts'
import { bold, cyan, note } from './terminal.ts'
import { runUp, type UpFlags } from './up-service.ts'

export interface StartFlags {
  readonly host: string
  readonly port: number
  readonly servicePort?: number
  readonly data?: string
  readonly steps?: number
  readonly threads?: number
}

const servicePortDefault = 8600

export async function runStart(flags: StartFlags): Promise<void> {
  const { host, port: gatewayPort, servicePort, data } = flags
  const port = servicePort ?? servicePortDefault
  const up: UpFlags = { host, port, gatewayPort, signUp: 'invited', ...(data !== undefined && { data }) }
  try {
    await runUp(up, {
      mayMove: servicePort === undefined,
      work: (signal) => starterAnswers(flags, signal),
    })
  } catch (error) {
    if (!(error instanceof UserError) || error.failure !== 'conflict') throw error
    const url = contextOf(dataOf(up).folder).saved?.url
    if (url === undefined || !(await answers(url))) throw error
    note(`The service runs already, at ${cyan(url)}.`)
    const stop = shutdownSignal()
    await starterAnswers(flags, stop.signal).finally(() => stop.dispose())
  }
}

async function starterAnswers(flags: StartFlags, signal: AbortSignal): Promise<void> {
  const { steps, threads, host } = flags
  const { url, token } = contextOf(dataOf(flags).folder).saved!
  const client = new Client({ url, ...(token !== undefined && { token }) })
  sayOfEarlierOne()
  try {
    const options = { client, project: firstProject, steps, threads, isPublic: isLoopback(host), signal }
    const deployment = await makeStarter({ ...options, texts: starterTexts })
    if (deployment === undefined) process.exitCode = 130
    else announce(deployment, await signInAddress(client))
  } catch (error) {
    // A wait that was given up.
    if (!signal.aborted) throw error
  }
}

async function answers(url: string): Promise<boolean> {
  try {
    return (await fetch(`${url}/api/v1/openapi.json`)).ok
  } catch (error) {
    if (error instanceof TypeError) return false
    throw error
  }
}

/** Before the service had it, the starter was a run in the models folder. */
function sayOfEarlierOne(): void {
  const folder = join(modelsFolder(), starterName)
  if (!existsSync(folder)) return
  note(`The starter of an earlier Ropeway stays in ${folder}; \`ropeway serve ${folder}\` serves it.`)
}

/** `page`: an address that signs a browser in. */
function announce({ url: given, public: isPublic }: DeploymentView, page: string): void {
  const url = given ?? ''
  note(`\n${bold(starterName)} answers at ${cyan(url)}\n`)
  const key = isPublic ? '' : ` -H 'authorization: Bearer KEY'`
  note(`  curl ${url}/completions -H 'content-type: application/json'${key} \\`)
  note(
    `    -d '{"model": "${starterName}", "prompt": "The people of the United States", "max_tokens": 80}'\n`,
  )
  // Who installed the package has no checkout that npx would find it in.
  const ropeway = ownFile('tsdown.config.ts') === undefined ? 'ropeway' : 'npx ropeway'
  const example = relative('.', ownFile(join('examples', 'whale', 'job.yml')) ?? 'JOB.yml')
  if (!isPublic) note(`  ${ropeway} key create me --scope deployment:use     prints the KEY\n`)
  note('Next, in another terminal:')
  note(`  ${ropeway} generate ${starterName} -p "The whale"          a text in the terminal`)
  note(`  ${ropeway} model lineage ${starterName}                    what it was made of`)
  note(`  ${ropeway} train ${example}           a model of your own, as a job`)
  note(`  ${ropeway} deployment create whale --model checkpoint:whale@latest --public\n`)
  note(`  ${ropeway} console                                  the page again, signed in\n`)
  note('A page shows all of it, at an address that works once, within five minutes:')
  note(`  ${cyan(page)}\n`)
  note('Ctrl-C stops it all.')
}
