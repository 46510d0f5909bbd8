import { Link, useNavigate, useSearch } from '@tanstack/react-router'
import type { FormEvent } from 'react'
import { listCheckpoints, listModels, promote } from '../../../src/api/control/models.ts'
import { Problem } from '../parts/problem.tsx'
import { Table } from '../parts/table.tsx'
import { Ago } from '../parts/time.tsx'
import { namePattern } from '../parts/upload.tsx'
import { useProject } from '../project.ts'
import { seldom, service, useAnswer, useDeed } from '../service.ts'

const modelsShown = 200
const checkpointsShown = 100

/** Models of a project, and the form that makes a version of a checkpoint. */
export function Models() {
  const project = useProject()
  const query = { limit: modelsShown }
  const { data, error } = useAnswer(listModels, { params: { project }, query }, { every: seldom })
  return (
    <>
      <div className="heading">
        <h1>Models</h1>
        <span className="space" />
        <Link className="button" to="/projects/$project/checkpoints" params={{ project }}>
          Checkpoints
        </Link>
      </div>
      <Problem error={error} />
      <Table
        rows={data?.items}
        keyOf={({ id }) => id}
        empty="No models yet. Promote a checkpoint below, or from the Checkpoints of a job."
        columns={{
          Model: ({ name }) => (
            <Link to="/projects/$project/models/$model" params={{ project, model: name }}>
              {name}
            </Link>
          ),
          'Newest version': ({ latest }) => latest,
          Aliases: ({ aliases }) => aliasesText(aliases),
          Changed: ({ updated_at }) => <Ago at={updated_at} />,
          '': ({ name }) => (
            <Link to="/projects/$project/deployments" params={{ project }} search={{ model: name }}>
              Deploy
            </Link>
          ),
        }}
      />
      {data?.next && <p className="quiet">Only {modelsShown} are shown; ropeway model list has them all.</p>}
      <h2>Promote a checkpoint</h2>
      <Promote project={project} known={data?.items.map(({ name }) => name) ?? []} />
    </>
  )
}

function aliasesText(aliases: Readonly<Record<string, number>>): string {
  return Object.entries(aliases)
    .map(([alias, version]) => `${alias} = ${version}`)
    .join(', ')
}

function Promote({ project, known }: { project: string; known: readonly string[] }) {
  const navigate = useNavigate()
  const wanted = useSearch({
    strict: false,
    select: (search) => (search as { checkpoint?: string }).checkpoint,
  })
  const query = { limit: checkpointsShown }
  const { data, error } = useAnswer(listCheckpoints, { params: { project }, query })
  const make = useDeed(
    ({ model, ...body }: { model: string; checkpoint: string; alias?: string; message: string }) =>
      service.call(promote, { params: { project, model }, body }),
    ['models.'],
    ({ name }) => void navigate({ to: '/projects/$project/models/$model', params: { project, model: name } }),
  )
  if (data === undefined) return <Problem error={error} />
  if (data.items.length === 0)
    return <p className="empty">There is no checkpoint yet. A job makes them while it trains.</p>
  const send = (event: FormEvent<HTMLFormElement>) => {
    event.preventDefault()
    const given = new FormData(event.currentTarget)
    const text = (name: string) => String(given.get(name)).trim()
    make.mutate({
      ...{ model: text('model'), checkpoint: text('checkpoint'), message: text('message') },
      ...(text('alias') !== '' && { alias: text('alias') }),
    })
  }
  // One that is older than those listed is still what was asked for.
  const isListed = wanted === undefined || data.items.some(({ id }) => id === wanted)
  return (
    <form onSubmit={send}>
      <p className="quiet">
        A version of a model is a checkpoint that stays: no rule deletes it. An alias, such as prod, can move.
      </p>
      <div className="row">
        <label>
          Checkpoint
          <select name="checkpoint" required defaultValue={wanted}>
            {!isListed && <option value={wanted}>{wanted}</option>}
            {data.items.map(({ id, name }) => (
              <option key={id} value={id}>
                {name}
              </option>
            ))}
          </select>
        </label>
        <label>
          Model, new or one that there is
          <input name="model" required pattern={namePattern} list="models" />
          <datalist id="models">
            {known.map((one) => (
              <option key={one} value={one} />
            ))}
          </datalist>
        </label>
        <label>
          Alias (if you like)
          <input name="alias" pattern={namePattern} />
        </label>
        <label>
          What is new (if you like)
          <input name="message" maxLength={500} />
        </label>
        <button type="submit" className="main" disabled={make.isPending}>
          Promote
        </button>
      </div>
      <Problem error={make.error} />
    </form>
  )
}
