import { UserError } from '../../base/errors.ts'
import { type Pause, pausesUntil } from '../../base/pauses.ts'

/** How the preparation of data tells what it does, and hears that it is to end. */
export interface Preparing {
  onNote: (text: string) => void
  pause: Pause
}

/** Ends with a UserError soon after `signal` is aborted. */
export function preparing(onNote: (text: string) => void, signal?: AbortSignal): Preparing {
  const interrupted = () =>
    new UserError('Stopped while the run was prepared, before the first step.', {
      failure: 'interrupted',
      fix: 'The same command begins there again: what was complete is in the cache, what was half made is gone.',
    })
  return { onNote, pause: pausesUntil(signal, interrupted) }
}
