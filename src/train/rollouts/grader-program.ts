/**
 * A program of the user that grades answers: lines of JSON in, a score a line out. It is started once for all answers of
 * a step. Whatever it does other than that ends the run: a grader that is broken must not look like a bad answer.
 */
import { type ChildProcessWithoutNullStreams, spawn } from 'node:child_process'
import { messageOf, UserError } from '../../base/errors.ts'
import { jsonOf } from '../../base/json.ts'

/** What the program reads of each answer. */
export interface GradedAnswer {
  /** The messages in front of the answer; a prompt is one of the user. */
  prompt: readonly unknown[]
  answer: string
  /** The record's own answer, where it has one. */
  expected: string | null
  /** The record as it stands in the file. */
  record: Readonly<Record<string, unknown>>
}

export interface GraderProgram {
  name: string
  run: readonly string[]
  timeoutSeconds: number
  /** Where it is started. */
  folder: string
}

/** What it may write: so much for each answer, and so much in any case. */
const bytesPerAnswer = 4096
const bytesMin = 64 << 10
/** Of its complaints the last are shown. */
const complaintMax = 2000
/** Of a line that is no score so much is shown. */
const lineMax = 200

/** The scores of `answers`, in their order. Throws a UserError for a program that gives none. */
export async function scoresByProgram(
  program: GraderProgram,
  answers: readonly GradedAnswer[],
): Promise<number[]> {
  const { name, run } = program
  const output = await outputOf(program, answers.map((answer) => `${JSON.stringify(answer)}\n`).join(''), {
    bytesMax: Math.max(bytesMin, bytesPerAnswer * answers.length),
  })
  const lines = output.split('\n').filter((line) => line.trim() !== '')
  if (lines.length !== answers.length) {
    throw broken(program, `wrote ${lines.length} scores for ${answers.length} answers`)
  }
  return lines.map((line, index) => {
    const score = scoreOf(line)
    if (score !== undefined) return score
    throw new UserError(
      `The reward ${name} (${run[0]}) wrote no score in line ${index + 1}: ${line.slice(0, lineMax)}`,
      { fix },
    )
  })
}

const fix =
  'It reads lines of JSON ({"prompt", "answer", "expected", "record"}) until its input ends, and writes a line for each: a number, or {"score": number}. What it wants to tell people belongs on stderr.'

function broken({ name, run }: GraderProgram, what: string, complaint = ''): UserError {
  const said = complaint.trim() === '' ? '' : `\nIts last words:\n${complaint.trim()}`
  return new UserError(`The reward ${name} (${run.join(' ')}) ${what}.${said}`, { fix })
}

/** The number of a line; undefined where it holds none. */
function scoreOf(line: string): number | undefined {
  const value = jsonOf(line)
  const score =
    typeof value === 'object' && value !== null && 'score' in value
      ? (value as { score: unknown }).score
      : value
  return typeof score === 'number' && Number.isFinite(score) ? score : undefined
}

function outputOf(program: GraderProgram, input: string, limits: { bytesMax: number }): Promise<string> {
  const { run, folder, timeoutSeconds } = program
  const [command, ...rest] = run
  return new Promise((resolve, reject) => {
    // A group of its own: what it started ends with it, and a terminal's Ctrl-C does not reach it.
    const child = spawn(command!, rest, { cwd: folder, stdio: 'pipe', detached: true })
    const written: Buffer[] = []
    let bytes = 0
    let complaint = ''
    let failure: UserError | undefined
    const end = (what: string) => {
      failure ??= broken(program, what, complaint)
      endGroup(child)
    }
    const timer = setTimeout(() => end(`did not end within ${timeoutSeconds} seconds`), timeoutSeconds * 1000)
    child.stdout.on('data', (chunk: Buffer) => {
      bytes += chunk.length
      if (bytes > limits.bytesMax) end(`wrote more than ${limits.bytesMax} bytes`)
      else written.push(chunk)
    })
    child.stderr.on('data', (chunk: Buffer) => {
      complaint = (complaint + chunk.toString('utf8')).slice(-complaintMax)
    })
    // A program that ends without reading is judged by how it ended.
    child.stdin.on('error', () => undefined)
    child.on('error', (error) => {
      clearTimeout(timer)
      reject(
        new UserError(`The reward ${program.name} could not start ${command}: ${messageOf(error)}`, {
          failure: 'not_found',
          fix: `Correct run: it is started in ${folder}.`,
        }),
      )
    })
    child.on('exit', () => endGroup(child))
    child.on('close', (code, signal) => {
      clearTimeout(timer)
      if (code !== 0) failure ??= broken(program, endingOf(code, signal), complaint)
      if (failure === undefined) resolve(Buffer.concat(written).toString('utf8'))
      else reject(failure)
    })
    child.stdin.end(input)
  })
}

function endingOf(code: number | null, signal: NodeJS.Signals | null): string {
  return code === null ? `was ended by ${signal}` : `ended with code ${code}`
}

/** Its processes would hold the pipes open, and with them the run. */
function endGroup({ pid }: ChildProcessWithoutNullStreams): void {
  if (pid === undefined) return
  try {
    process.kill(-pid, 'SIGKILL')
  } catch (error) {
    // There is nobody left.
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error
  }
}
