/**
 * What a program finds in its environment, whoever starts it: the service, or `ropeway train FILE --here`.
 * docs/any-training-code.md is the same for people.
 */
import { existsSync } from 'node:fs'
import { delimiter, dirname, join } from 'node:path'

export interface Place {
  /** Names the job in logs. */
  job: string
  /** From 1. */
  attempt: number
  output: string
  data?: string | undefined
  /** The newest checkpoint of an earlier attempt, or the one that the job starts from. */
  inputCheckpoint?: string | undefined
  stepsDone: number
  /** Where ranks find each other. */
  masterAddress: string
  masterPort: number
  worldSize: number
}

/** The same for every rank. */
export function sharedEnvironment(place: Place): Record<string, string> {
  return {
    ROPEWAY_JOB: place.job,
    ROPEWAY_ATTEMPT: String(place.attempt),
    ROPEWAY_OUTPUT: place.output,
    ROPEWAY_EMERGENCY: emergencyNote(place.output),
    ROPEWAY_STEPS_DONE: String(place.stepsDone),
    ...(place.data !== undefined && { ROPEWAY_DATA: place.data }),
    ...(place.inputCheckpoint !== undefined && { ROPEWAY_INPUT_CHECKPOINT: place.inputCheckpoint }),
    MASTER_ADDR: place.masterAddress,
    MASTER_PORT: String(place.masterPort),
    WORLD_SIZE: String(place.worldSize),
  }
}

/** Of rank `rank`, the `localRank`-th of `localWorldSize` on its machine. */
export function rankEnvironment(
  place: Place,
  rank: number,
  localRank: number,
  localWorldSize: number,
): Record<string, string> {
  return {
    RANK: String(rank),
    LOCAL_RANK: String(localRank),
    LOCAL_WORLD_SIZE: String(localWorldSize),
    NODE_RANK: String(Math.floor(rank / localWorldSize)),
    ROPEWAY_EVENTS: eventsFile(place.output, place.attempt, rank),
  }
}

/** Each rank of each attempt writes a file of its own. */
export function eventsFile(output: string, attempt: number, rank: number): string {
  return join(output, `events-${attempt}-${rank}.jsonl`)
}

/** While this file is there, programs are asked to save at the end of their step. */
export function emergencyNote(output: string): string {
  return join(output, 'emergency-save')
}

/** PYTHONPATH with the one-file SDK behind what is there: a copy beside the program comes first anyway. */
export function withPythonSdk(path: string | undefined): Record<string, string> {
  const entries = [path, sdkFolder('python')].filter((entry) => entry !== undefined && entry !== '')
  return entries.length === 0 ? {} : { PYTHONPATH: entries.join(delimiter) }
}

/** The SDKs lie in the package, above the sources and above what is built of them. */
export function sdkFolder(language: string): string | undefined {
  for (let folder = import.meta.dirname; ; folder = dirname(folder)) {
    const candidate = join(folder, 'sdk', language)
    if (existsSync(candidate)) return candidate
    if (folder === dirname(folder)) return undefined
  }
}
