import type { FormEvent } from 'react'
import type { z } from 'zod'
import { deleteRetention, listRetention, setRetention } from '../../../src/api/control/models.ts'
import type { RetentionSpec, retentionSpec } from '../../../src/api/control/retention.ts'
import { seldom, service, useAnswer, useDeed } from '../service.ts'
import { useMay } from './may.tsx'
import { Problem } from './problem.tsx'
import { Table } from './table.tsx'
import { namePattern } from './upload.tsx'

interface Rule {
  readonly name: string
  readonly spec: z.input<typeof retentionSpec>
}

/** Which checkpoints of jobs stay: each that any rule keeps, and all while no rule speaks of their job. */
export function RetentionRules({ project }: { project: string }) {
  const mayEdit = useMay('checkpoint:edit')
  const query = { limit: 200 }
  const { data, error } = useAnswer(listRetention, { params: { project }, query }, { every: seldom })
  const changes = ['retention.', 'checkpoints.']
  const set = useDeed(
    ({ name, spec }: Rule) => service.call(setRetention, { params: { project, rule: name }, body: spec }),
    changes,
  )
  const remove = useDeed(
    (rule: string) => service.call(deleteRetention, { params: { project, rule } }),
    changes,
  )
  return (
    <>
      <Problem error={error ?? remove.error} />
      <Table
        rows={data?.items}
        keyOf={({ name }) => name}
        empty="No rule: all of them stay."
        columns={{
          Rule: ({ name }) => name,
          'Of jobs': ({ rule }) => (rule.jobs === '*' ? 'all' : rule.jobs),
          Keeps: ({ rule }) => keepsText(rule),
          '': ({ name }) =>
            mayEdit && (
              <button type="button" disabled={remove.isPending} onClick={() => remove.mutate(name)}>
                Take away
              </button>
            ),
        }}
      />
      {mayEdit && <RuleForm isBusy={set.isPending} onSend={set.mutate} />}
      <Problem error={set.error} />
    </>
  )
}

/** `the newest 3, steps that 1,000 divides, the 1 with the least loss`. */
function keepsText({ keep_last, keep_every, keep_days, keep_best: best }: RetentionSpec): string {
  return [
    `the newest ${keep_last}`,
    keep_every !== undefined && `steps that ${keep_every.toLocaleString()} divides`,
    keep_days !== undefined && `those of the last ${keep_days} days`,
    best !== undefined &&
      `the ${best.count} with the ${best.mode === 'min' ? 'least' : 'largest'} ${best.metric}`,
  ]
    .filter(Boolean)
    .join(', ')
}

function RuleForm({ isBusy, onSend }: { isBusy: boolean; onSend(rule: Rule): void }) {
  const send = (event: FormEvent<HTMLFormElement>) => {
    event.preventDefault()
    const given = new FormData(event.currentTarget)
    const text = (name: string) => String(given.get(name)).trim()
    const number = (name: string) => (text(name) === '' ? {} : { [name]: Number(text(name)) })
    const mode = text('mode') === 'max' ? 'max' : 'min'
    onSend({
      name: text('name'),
      spec: {
        jobs: text('jobs') || '*',
        ...number('keep_last'),
        ...number('keep_every'),
        ...number('keep_days'),
        ...(text('metric') !== '' && {
          keep_best: { metric: text('metric'), mode, count: Number(text('count')) },
        }),
      },
    })
  }
  return (
    <form onSubmit={send}>
      <p className="quiet">
        What no rule keeps goes within minutes, and can be restored for a day. Versions of models and what is
        deployed stay in any case.
      </p>
      <div className="row">
        <label>
          Rule, new or one that there is
          <input name="name" required pattern={namePattern} />
        </label>
        <label>
          Of jobs named
          <input name="jobs" maxLength={64} placeholder="all; nightly-* ..." />
        </label>
        <label>
          Keep the newest
          <input name="keep_last" type="number" required min={1} max={10_000} defaultValue={1} />
        </label>
        <label>
          Steps that this divides
          <input name="keep_every" type="number" min={1} />
        </label>
        <label>
          Of the last days
          <input name="keep_days" type="number" min={0} max={36_500} step="any" />
        </label>
        <label>
          The best by metric
          <input name="metric" maxLength={200} placeholder="loss" />
        </label>
        <label>
          which is
          <select name="mode">
            <option value="min">the least</option>
            <option value="max">the largest</option>
          </select>
        </label>
        <label>
          so many of them
          <input name="count" type="number" required min={1} max={10_000} defaultValue={1} />
        </label>
        <button type="submit" className="main" disabled={isBusy}>
          Set the rule
        </button>
      </div>
    </form>
  )
}
