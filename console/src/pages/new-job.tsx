import { useNavigate, useSearch } from '@tanstack/react-router'
import { type FormEvent, useEffect, useState } from 'react'
import { parse, stringify } from 'yaml'
import { createJobEndpoint } from '../../../src/api/control/job-endpoints.ts'
import { saveTemplate, viewTemplate } from '../../../src/api/control/job-templates.ts'
import type { CreateJob } from '../../../src/api/control/jobs.ts'
import { UserError } from '../../../src/base/errors.ts'
import { May } from '../parts/may.tsx'
import { Problem } from '../parts/problem.tsx'
import { Waiting } from '../parts/waiting.tsx'
import { useProject } from '../project.ts'
import { service, useAnswer, useDeed } from '../service.ts'

const example = `name: whale
model: {architecture: llama, layers: 4, width: 192, heads: 6, key_value_heads: 2, tied: true}
data: {text: [dataset:starter/moby-dick.txt], validation: 0.05}
tokenizer: {byte_pairs: 2048}
context: 256
batch: 4
steps: 200
optimizer: {learning_rate: 0.003}
evaluate: {every: 50}
checkpoint: {every: 50, keep: 2}
`

/** Where a job file comes from that is about to be run. */
interface Origin {
  readonly text: string
  readonly template?: string
  /** Of the template. */
  readonly version?: number
  /** The folder that came with it. */
  readonly workspace?: string
}

/** A job file, written, pasted or from a template, becomes a job. */
export function NewJob() {
  const project = useProject()
  const template = useSearch({
    strict: false,
    select: (search) => (search as { template?: string }).template,
  })
  return (
    <>
      <h1>New job</h1>
      <p>
        A job file, as <code>ropeway train FILE</code> takes it. Data is named <code>dataset:NAME/PATH</code>.
      </p>
      <May permission="job:create" what="run jobs">
        {template === undefined ? (
          <JobForm project={project} origin={{ text: example }} />
        ) : (
          <FromTemplate key={template} project={project} template={template} />
        )}
      </May>
    </>
  )
}

function FromTemplate({ project, template }: { project: string; template: string }) {
  const { data, error, isFetching } = useAnswer(viewTemplate, { params: { project, template } })
  const [origin, setOrigin] = useState<Origin>()
  useEffect(() => {
    if (data === undefined || isFetching) return
    const { file, workspace, version } = data
    const given = { template, version, text: stringify(file), ...(workspace !== null && { workspace }) }
    // What somebody saves meanwhile must not take the place of what is being written here.
    setOrigin((known) => known ?? given)
  }, [template, data, isFetching])
  return origin === undefined ? <Waiting error={error} /> : <JobForm project={project} origin={origin} />
}

function JobForm({ project, origin }: { project: string; origin: Origin }) {
  const navigate = useNavigate()
  const [text, setText] = useState(origin.text)
  const run = useDeed(
    (typed: string) => service.call(createJobEndpoint, { params: { project }, body: bodyOf(typed, origin) }),
    ['jobs.list'],
    ({ id }) => void navigate({ to: '/projects/$project/jobs/$job', params: { project, job: id } }),
  )
  const save = useDeed(
    ({ template, typed }: { template: string; typed: string }) => {
      const changed = template === origin.template && { version: origin.version }
      const body = { ...bodyOf(typed, origin), ...changed }
      return service.call(saveTemplate, { params: { project, template }, body })
    },
    ['job-templates.'],
    () => void navigate({ to: '/projects/$project/templates', params: { project } }),
  )
  const sendRun = (event: FormEvent) => {
    event.preventDefault()
    run.mutate(text)
  }
  const sendSave = (event: FormEvent<HTMLFormElement>) => {
    event.preventDefault()
    save.mutate({ template: String(new FormData(event.currentTarget).get('template')), typed: text })
  }
  return (
    <>
      <form onSubmit={sendRun}>
        <textarea
          aria-label="Job file"
          rows={18}
          spellCheck={false}
          value={text}
          onChange={({ target }) => setText(target.value)}
        />
        {origin.workspace && <p className="quiet">The folder that the template was saved with goes along.</p>}
        <Problem error={run.error} />
        <button type="submit" className="main" disabled={run.isPending}>
          Run it
        </button>
      </form>
      <h2>Keep it as a template</h2>
      <form onSubmit={sendSave} className="row">
        <label>
          Template, new or one that there is
          <input
            name="template"
            required
            maxLength={63}
            pattern="[A-Za-z0-9][A-Za-z0-9._\-]*"
            defaultValue={origin.template}
          />
        </label>
        <button type="submit" disabled={save.isPending}>
          Keep
        </button>
      </form>
      <Problem error={save.error} />
    </>
  )
}

function bodyOf(text: string, { workspace }: Origin): CreateJob {
  return { file: fileOf(text), ...(workspace !== undefined && { workspace }) }
}

function fileOf(text: string): Record<string, unknown> {
  let file: unknown
  try {
    file = parse(text)
  } catch (error) {
    throw new UserError(`This is no YAML: ${(error as Error).message}`, { cause: error })
  }
  if (typeof file === 'object' && file !== null && !Array.isArray(file)) return { ...file }
  throw new UserError('A job file holds fields: name, model, data ...')
}
