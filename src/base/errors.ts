/** What an expected failure means to a shell; the numbers are the process exit codes of the command line. */
export const exitCodes = {
  failed: 1,
  usage: 2,
  not_found: 3,
  auth: 4,
  unreachable: 5,
  conflict: 6,
  timed_out: 7,
  interrupted: 130,
} as const

export type Failure = keyof typeof exitCodes

const passing: readonly Failure[] = ['unreachable', 'timed_out', 'interrupted']

/**
 * A failure that a person can act on: bad input, a missing file, a full disk.
 *
 * `message` says what happened and why; `fix` says what to do. Anything thrown that is not a UserError
 * is a bug and is shown with its stack.
 */
export class UserError extends Error {
  override name = 'UserError'
  readonly failure: Failure
  readonly fix: string | undefined
  /** The same again may go well: others hold what was missing, or it is out of reach for now. */
  readonly mayPass: boolean

  constructor(
    message: string,
    options: { failure?: Failure; fix?: string; cause?: unknown; mayPass?: boolean } = {},
  ) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause })
    this.failure = options.failure ?? 'failed'
    this.fix = options.fix
    this.mayPass = options.mayPass ?? passing.includes(this.failure)
  }
}

/** Work ended because somebody asked for that. */
export function isInterruption(error: unknown): boolean {
  return error instanceof UserError && error.failure === 'interrupted'
}

const fullDisk = { what: 'The disk is full', fix: 'Free some space and try again.', mayPass: true }
/** What the system refuses for reasons that a person can mend, by its code (errno). */
const systemRefusals: Readonly<Record<string, { what: string; fix: string; mayPass: boolean }>> = {
  ENOSPC: fullDisk,
  // The same, as SQLite says it: of its files, and of the memory that processes share by one.
  SQLITE_FULL: fullDisk,
  SQLITE_IOERR_SHMSIZE: fullDisk,
  EDQUOT: {
    what: 'The quota of the disk is used up',
    fix: 'Free some space and try again.',
    mayPass: true,
  },
  EACCES: { what: 'Access is denied', fix: 'Get the right to it, or choose another place.', mayPass: false },
  EPERM: { what: 'Access is denied', fix: 'Get the right to it, or choose another place.', mayPass: false },
  EROFS: { what: 'The place is read-only', fix: 'Choose another place.', mayPass: false },
  EMFILE: {
    what: 'Too many files are open',
    fix: 'Raise the limit (ulimit -n) and try again.',
    mayPass: true,
  },
  EIO: {
    what: 'The disk reports an error',
    fix: 'Look at the system log; the disk may fail.',
    mayPass: true,
  },
}

/** A refusal of the system as what a person can act on; undefined for anything else. `doing` says what was tried. */
export function systemRefusal(error: unknown, doing?: string): UserError | undefined {
  const { code } = error as { code?: string }
  const known = code !== undefined && Object.hasOwn(systemRefusals, code) ? systemRefusals[code] : undefined
  if (known === undefined || !(error instanceof Error)) return undefined
  const { what, fix, mayPass } = known
  const message = doing === undefined ? `${what}: ${error.message}.` : `${doing}: ${error.message}.`
  return new UserError(message, { fix, mayPass, cause: error })
}

/** ENOSPC and EDQUOT of files, and what SQLite and PostgreSQL make of them. */
const noRoomCodes = new Set(['ENOSPC', 'EDQUOT', 'SQLITE_FULL', 'SQLITE_IOERR_SHMSIZE', '53100'])

/** Whether something could not be written for want of room: the error itself, or what it was made of. */
export function isNoRoom(error: unknown): boolean {
  if (!(error instanceof Error)) return false
  return noRoomCodes.has((error as { code?: string }).code ?? '') || isNoRoom(error.cause)
}

/** The text of anything thrown, for messages that wrap another failure. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}
