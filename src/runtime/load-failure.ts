import koffi from 'koffi'
import { messageOf } from '../base/errors.ts'

/** Why the system's loader does not take the library at `path`; undefined when it does. */
export function loadFailure(path: string): string | undefined {
  try {
    koffi.load(path)
    return undefined
  } catch (error) {
    return messageOf(error)
  }
}
