/** OpenAI's fine-tuning API as `ropeway up` has it: its files and jobs, the loop, and who reads the files. */
import { spawn } from 'node:child_process'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { fileURLToPath } from 'node:url'
import { UserError } from '../base/errors.ts'
import { runnerOf } from '../base/processes.ts'
import { openCredential } from '../control/credentials/credentials.ts'
import type { ServiceContext } from '../control/service/context.ts'
import type { Loop } from '../control/service/loop.ts'
import type { Surface } from '../control/service/surface.ts'
import { TuningFiles } from '../control/tuning/files.ts'
import { type Planned, type PlanRequest, startTuningLoop } from '../control/tuning/loop.ts'
import { tuningSurface } from '../control/tuning/routes.ts'
import { Tunings } from '../control/tuning/tunings.ts'
import { collectorOf } from './collecting.ts'
import type { DataParts } from './data-parts.ts'
import type { JobRoom } from './job-room.ts'

export class TuningRoom {
  readonly tunings: Tunings
  readonly surface: Surface
  readonly #start: () => Loop
  #loop: Loop | undefined

  constructor(
    context: ServiceContext,
    folder: string,
    data: DataParts,
    { jobs, folders }: Pick<JobRoom, 'jobs' | 'folders'>,
  ) {
    const { checkpoints, models, blobs, datasets } = data
    const files = new TuningFiles(blobs, datasets, join(folder, 'incoming'))
    this.tunings = new Tunings({
      ...{ models, files, jobs },
      checkWandb: async (project, name) => void (await openCredential(context, project, name, 'wandb')),
      wake: () => this.#loop?.wake(),
    })
    this.surface = tuningSurface({ files, tunings: this.tunings, checkpoints })
    this.#start = () =>
      startTuningLoop({
        ...{ tunings: this.tunings, files, jobs, folders, checkpoints },
        providing: { ...data, store: context.store },
        log: context.log,
        plan: planInChild,
        collect: collectorOf(context, data, folders),
      })
  }

  start(): Loop {
    this.#loop = this.#start()
    return this.#loop
  }
}

const planMsMax = 600_000
const errorCharactersMax = 500

/** See tuning-plan.ts. */
export async function planInChild(request: PlanRequest, workspace: string): Promise<Planned> {
  const isSource = import.meta.url.endsWith('.ts')
  const entry = fileURLToPath(new URL(isSource ? './tuning-plan.ts' : './tuning-plan.js', import.meta.url))
  const child = spawn(process.execPath, [...runnerOf(entry), entry], {
    stdio: ['pipe', 'pipe', 'pipe'],
    timeout: planMsMax,
    killSignal: 'SIGKILL',
  })
  // A child that dies at once closes this before all is written; how it ended says why.
  child.stdin.on('error', () => undefined)
  child.stdin.end(JSON.stringify({ request, workspace }))
  const ended = new Promise<number | NodeJS.Signals | null>((resolve, reject) => {
    child.once('error', reject)
    child.once('close', (code, signal) => resolve(code ?? signal))
  })
  const [code, out, errors] = await Promise.all([ended, text(child.stdout), text(child.stderr)])
  if (code === 0) return JSON.parse(out) as Planned
  throw new UserError(
    `Reading the files ended with ${code}: ${errors.trim().slice(-errorCharactersMax) || 'it said nothing'}`,
  )
}
