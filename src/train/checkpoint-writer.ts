/**
 * Checkpoints beside the steps: a save holds training up for as long as the copying takes, and writes what was copied
 * while the next steps run. One is written at a time.
 */

import { join } from 'node:path'
import type { Clock } from '../base/clock.ts'
import { messageOf, systemRefusal } from '../base/errors.ts'
import { pruneCheckpoints, stepFolderName, type TrainerState } from './checkpoint.ts'
import { type SaveStage, saveCheckpoint } from './checkpoint-save.ts'
import type { Team } from './parallel/team.ts'
import type { Parameters } from './parameters.ts'
import { Snapshot } from './snapshot.ts'

export interface SavedCheckpoint {
  stepsDone: number
  folder: string
  /** How long training stood still for it. */
  stallMs: number
  /** From the copy to the last rename. */
  writeMs: number
}

export interface WriterOptions {
  root: string
  /** How many of the newest are kept, beside the best. */
  keep: number
  files: Readonly<Record<string, string>>
  clock: Clock
  /** Hears of it before it is written, while the step is the newest. */
  onSaving?: ((stepsDone: number) => void) | undefined
  onSaved: (checkpoint: SavedCheckpoint) => void
  onFailed: (stepsDone: number, reason: string) => void
  onStage?: ((stage: SaveStage) => void) | undefined
  /** The first of these processes writes; all of them call the same things in the same order. */
  team?: Team | undefined
}

export class CheckpointWriter {
  readonly #parameters: Parameters
  readonly #options: WriterOptions
  #snapshot: Snapshot | undefined
  #writing: Promise<void> = Promise.resolve()
  #asked: number | undefined
  #newest: SavedCheckpoint | undefined

  constructor(parameters: Parameters, options: WriterOptions) {
    this.#parameters = parameters
    this.#options = options
  }

  /**
   * Copies what is there and returns; what was copied is written in the background. A save that is still being written
   * is waited for first. One that fails is reported and leaves the checkpoints before it as they were.
   */
  async save(state: TrainerState): Promise<void> {
    if (!(await this.#isNeeded(this.#asked !== state.stepsDone))) return
    const { clock } = this.#options
    const startedMs = clock.nowMs()
    await this.#writing
    const snapshot = await this.#copy(state)
    const copiedMs = clock.nowMs()
    if (!this.#writes) return
    this.#writing = this.#write(snapshot, state, copiedMs - startedMs).catch((error: unknown) => {
      this.#asked = undefined
      this.#options.onFailed(state.stepsDone, messageOf(error))
    })
  }

  /** Saves now and waits until it is on disk. Throws when it cannot be. */
  async saveAndWait(state: TrainerState): Promise<string> {
    await this.#writing
    const folder = join(this.#options.root, stepFolderName(state.stepsDone))
    if (!(await this.#isNeeded(this.#newest?.stepsDone !== state.stepsDone))) return folder
    const snapshot = await this.#copy(state)
    if (!this.#writes) return folder
    await this.#write(snapshot, state, 0).catch((error: unknown) => {
      throw systemRefusal(error, `The checkpoint after step ${state.stepsDone} could not be written`) ?? error
    })
    return folder
  }

  get #writes(): boolean {
    return (this.#options.team?.rank ?? 0) === 0
  }

  /** The one that writes decides for all. */
  async #isNeeded(mine: boolean): Promise<boolean> {
    const { team } = this.#options
    return team === undefined ? mine : await team.any(this.#writes && mine)
  }

  async #copy(state: TrainerState): Promise<Snapshot> {
    this.#snapshot ??= new Snapshot(this.#parameters, 'weights and moments', this.#writes)
    this.#snapshot.take()
    await this.#options.team?.gather(this.#snapshot)
    this.#asked = state.stepsDone
    if (this.#writes) this.#options.onSaving?.(state.stepsDone)
    return this.#snapshot
  }

  /** Nothing is being written any more. */
  async settled(): Promise<void> {
    await this.#writing
  }

  async #write(snapshot: Snapshot, state: TrainerState, stallMs: number): Promise<void> {
    const { root, keep, files, clock, onStage } = this.#options
    const { stepsDone, best } = state
    const startedMs = clock.nowMs()
    const folder = await saveCheckpoint(root, { snapshot, files, state }, onStage)
    const writeMs = clock.nowMs() - startedMs
    this.#newest = { stepsDone, folder, stallMs, writeMs }
    pruneCheckpoints(root, keep, { stepsDone, bestStep: best?.step })
    onStage?.('pruned')
    this.#options.onSaved(this.#newest)
  }
}
