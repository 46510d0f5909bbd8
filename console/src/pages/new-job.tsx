import { useNavigate } from '@tanstack/react-router'
import { type FormEvent, useState } from 'react'
import { parse } from 'yaml'
import { createJobEndpoint } from '../../../src/api/control/job-endpoints.ts'
import { UserError } from '../../../src/base/errors.ts'
import { Problem } from '../parts/problem.tsx'
import { useProject } from '../project.ts'
import { service, useDeed } from '../service.ts'

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

/** A job file, written or pasted, becomes a job. */
export function NewJob() {
  const project = useProject()
  const navigate = useNavigate()
  const [text, setText] = useState(example)
  const create = useDeed(
    (typed: string) =>
      service.call(createJobEndpoint, { params: { project }, body: { file: fileOf(typed) } }),
    ['jobs.list'],
    ({ id }) => void navigate({ to: '/projects/$project/jobs/$job', params: { project, job: id } }),
  )
  const send = (event: FormEvent) => {
    event.preventDefault()
    create.mutate(text)
  }
  return (
    <form onSubmit={send}>
      <h1>New job</h1>
      <p>
        A job file, as <code>ropeway train FILE</code> takes it. Data is named <code>dataset:NAME/PATH</code>.
      </p>
      <textarea
        aria-label="Job file"
        rows={18}
        spellCheck={false}
        value={text}
        onChange={({ target }) => setText(target.value)}
      />
      <Problem error={create.error} />
      <button type="submit" className="main" disabled={create.isPending}>
        Run it
      </button>
    </form>
  )
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
