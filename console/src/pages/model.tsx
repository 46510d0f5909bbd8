import { Link, useNavigate, useParams } from '@tanstack/react-router'
import type { FormEvent } from 'react'
import {
  deleteModel,
  listReleases,
  modelLineage,
  removeAlias,
  setAlias,
  viewCheckpoint,
  viewModel,
} from '../../../src/api/control/models.ts'
import { Confirm } from '../parts/confirm.tsx'
import { Facts } from '../parts/facts.tsx'
import { Lineage } from '../parts/lineage.tsx'
import { Problem } from '../parts/problem.tsx'
import { Table } from '../parts/table.tsx'
import { Ago } from '../parts/time.tsx'
import { namePattern } from '../parts/upload.tsx'
import { Waiting } from '../parts/waiting.tsx'
import { useProject } from '../project.ts'
import { seldom, service, useAnswer, useDeed } from '../service.ts'
import { bytesText, numberText } from '../text.ts'

const versionsShown = 50

export function ModelPage() {
  const project = useProject()
  const name = useParams({ strict: false, select: ({ model }) => model! })
  const params = { project, model: name }
  const { data, error } = useAnswer(viewModel, { params }, { every: seldom })
  const lineage = useAnswer(modelLineage, { params }, { every: seldom })
  if (data === undefined) return <Waiting error={error} />
  const { checkpoint, version } = data
  return (
    <>
      <div className="heading">
        <h1>{name}</h1>
        <span className="quiet">newest version: {version.number}</span>
        <span className="space" />
        <Link
          className="button main"
          to="/projects/$project/deployments"
          params={{ project }}
          search={{ model: name }}
        >
          Deploy
        </Link>
        <DeleteModel {...params} />
      </div>
      <Facts
        of={{
          Checkpoint: checkpoint.name,
          Step: checkpoint.step > 0 && checkpoint.step,
          Size: bytesText(checkpoint.bytes),
          Made: <Ago at={version.created_at} />,
          'What was new': version.message,
        }}
      />
      <h2>Where it comes from, and where it went</h2>
      <Problem error={lineage.error} />
      {lineage.data && <Lineage project={project} edges={lineage.data.edges} here={version.id} />}
      <h2>Versions</h2>
      <Versions {...params} aliases={data.aliases} />
      <h2>Aliases</h2>
      <Aliases {...params} aliases={data.aliases} latest={data.latest} />
    </>
  )
}

interface OfModel {
  readonly project: string
  readonly model: string
}

interface WithAliases extends OfModel {
  readonly aliases: Readonly<Record<string, number>>
}

function DeleteModel({ project, model }: OfModel) {
  const navigate = useNavigate()
  const remove = useDeed(
    () => service.call(deleteModel, { params: { project, model } }),
    ['models.list'],
    () => void navigate({ to: '/projects/$project/models', params: { project } }),
  )
  return (
    <>
      <Problem error={remove.error} />
      <Confirm
        verb="Delete"
        title={`Delete the model ${model}?`}
        isBusy={remove.isPending}
        onConfirm={() => remove.mutate(undefined)}
      >
        All its versions go; their checkpoints stay. For 24 hours <code>ropeway model restore</code> takes
        that back.
      </Confirm>
    </>
  )
}

function Versions({ project, model, aliases }: WithAliases) {
  const query = { limit: versionsShown }
  const { data, error } = useAnswer(listReleases, { params: { project, model }, query }, { every: seldom })
  if (error) return <Problem error={error} />
  return (
    <>
      <Table
        rows={data?.items}
        keyOf={({ id }) => id}
        empty="None."
        columns={{
          Version: ({ number }) => number,
          Aliases: ({ number }) =>
            Object.keys(aliases)
              .filter((alias) => aliases[alias] === number)
              .join(', '),
          Checkpoint: ({ checkpoint }) => <CheckpointName project={project} checkpoint={checkpoint} />,
          Metrics: ({ checkpoint }) => <Metrics project={project} checkpoint={checkpoint} />,
          Made: ({ created_at }) => <Ago at={created_at} />,
          'What was new': ({ message }) => message,
          '': ({ number }) => (
            <Link
              to="/projects/$project/deployments"
              params={{ project }}
              search={{ model: `${model}@${number}` }}
            >
              Deploy
            </Link>
          ),
        }}
      />
      {data?.next && <p className="quiet">Only the newest {versionsShown} are shown.</p>}
    </>
  )
}

interface OfCheckpoint {
  readonly project: string
  readonly checkpoint: string
}

function CheckpointName(params: OfCheckpoint) {
  const { data } = useAnswer(viewCheckpoint, { params })
  if (data?.job == null) return data?.name
  return (
    <Link
      to="/projects/$project/jobs/$job"
      params={{ project: params.project, job: data.job.id }}
      search={{ tab: 'checkpoints' }}
    >
      {data.name}
    </Link>
  )
}

function Metrics(params: OfCheckpoint) {
  const { data } = useAnswer(viewCheckpoint, { params })
  const metrics = Object.entries(data?.metrics ?? {})
  return metrics.map(([name, value]) => `${name.replaceAll('_', ' ')} ${numberText(value)}`).join(', ')
}

function Aliases({ project, model, aliases, latest }: WithAliases & { latest: number }) {
  const set = useDeed(
    ({ alias, version }: { alias: string; version: number }) =>
      service.call(setAlias, { params: { project, model, alias }, body: { version } }),
    ['models.'],
  )
  const remove = useDeed(
    (alias: string) => service.call(removeAlias, { params: { project, model, alias } }),
    ['models.'],
  )
  const send = (event: FormEvent<HTMLFormElement>) => {
    event.preventDefault()
    const given = new FormData(event.currentTarget)
    set.mutate({ alias: String(given.get('alias')), version: Number(given.get('version')) })
  }
  return (
    <>
      <Table
        rows={Object.entries(aliases)}
        keyOf={([alias]) => alias}
        empty="An alias is a name that moves from version to version: what asks for it need not change."
        columns={{
          Alias: ([alias]) => alias,
          Version: ([, version]) => version,
          '': ([alias]) => (
            <button type="button" disabled={remove.isPending} onClick={() => remove.mutate(alias)}>
              Take away
            </button>
          ),
        }}
      />
      <form onSubmit={send} className="row">
        <label>
          Alias
          <input name="alias" required pattern={namePattern} placeholder="prod" />
        </label>
        <label>
          is version
          <input name="version" type="number" required min={1} max={latest} defaultValue={latest} />
        </label>
        <button type="submit" className="main" disabled={set.isPending}>
          Set
        </button>
      </form>
      <Problem error={set.error ?? remove.error} />
    </>
  )
}
