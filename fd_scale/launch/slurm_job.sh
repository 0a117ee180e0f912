# ---- From here on the same in every script of docker/slurm and in what `fd-scale launch --slurm` prints ----
# Starts the ranks as step 0 of the job, hands TERM on to them so that they save, and decides by their exit codes
# whether the job is put back into the queue. Expects `program` and `words` (what each rank runs), `srun_options`,
# `run_folder`, `form` (node or rank) and `most_restarts`. docs/cluster/slurm.md explains it.
say() { printf 'fd-scale-slurm: %s\n' "$*"; }
stopping='' interrupted='' srun_pid='' state=''
trap 'stopping=early' TERM # before there are ranks to hand it on to

# Of an array, SLURM_JOB_ID may stand for all of its tasks; this names one.
job=$SLURM_JOB_ID
if [[ ${SLURM_ARRAY_JOB_ID:-} ]]; then job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID; fi
# A run that TERM stopped before its schedule was done then ends with 75 and not with 0.
export FD_SCALE_STOPPED_EXIT=75

# The newest checkpoint, or, where checkpoints are not in the run folder, how much has been logged.
newest_checkpoint() {
    local found
    found=$(find "$run_folder" -maxdepth 2 \( -name 'step_[0-9]*[0-9]' -o -name 'iter_[0-9]*.pth' -o \
        -name 'epoch_[0-9]*.pth' \) -printf '%f\n' 2>/dev/null | sort --version-sort | tail --lines=1)
    if [[ ! $found && -f $run_folder/metrics.jsonl ]]; then
        found="metrics_$(wc --lines <"$run_folder/metrics.jsonl")"
    fi
    printf '%s\n' "${found:-none}"
}

# Counts the starts that found no newer checkpoint than the start before, whoever put the job back: this script, a
# preemption, or Slurm after it lost a node.
count_restarts() {
    local notes=$run_folder/logs/slurm_restarts newest before_job='' before='' without=0
    newest=$(newest_checkpoint)
    if ((${SLURM_RESTART_COUNT:-0} > 0)) && [[ -f $notes ]]; then
        read -r before_job before without <"$notes"
        if [[ $before_job == "$job" && $before == "$newest" ]]; then without=$((without + 1)); else without=0; fi
        say "start ${SLURM_RESTART_COUNT} after the first; newest checkpoint: $newest"
    fi
    if ((without > most_restarts)); then
        say "no new checkpoint since $without starts (at most $most_restarts): the job ends with 75 and is not put back"
        exit 75
    fi
    mkdir --parents "$run_folder/logs" && printf '%s %s %s\n' "$job" "$newest" "$without" >"$notes"
}

# Whether somebody cancelled the job, it lost a node or ran out of time: Slurm then tells the ranks itself.
slurm_ends_it() {
    state=$(squeue --noheader --jobs="$job" --format=%T 2>/dev/null)
    [[ $state && $state != RUNNING ]]
}

# Killing srun would kill the ranks, and they do not get a signal to srun; so Slurm is asked to signal the step.
forward_term() {
    local try
    interrupted=1
    if [[ $stopping ]] || ! kill -0 "$srun_pid" 2>/dev/null; then return; fi
    stopping=1
    if slurm_ends_it; then return; fi
    say "TERM: the time limit is near; the ranks are asked to save"
    for try in 1 2 3 4 5 6 7 8 9 10; do
        if scancel --signal=TERM "$job.0"; then return; fi
        kill -0 "$srun_pid" 2>/dev/null || return
        say "the step could not be signalled (try $try of 10)"
        sleep 1
    done
}

put_back() {
    local answer try
    for try in 1 2 3 4 5 6; do
        # A job that somebody cancelled must not come back, and one that lost a node is put back by Slurm.
        if slurm_ends_it; then
            say "Slurm is ending the job itself ($state): nothing is asked of it from here"
            exit 75
        fi
        say "worth a retry (75): the job is put back into the queue and resumes from $(newest_checkpoint)"
        if answer=$(scontrol requeue "$job" 2>&1) || [[ $answer == *"pending execution"* ]]; then exit 75; fi
        say "Slurm did not take it (try $try of 6): $answer"
        sleep 10
    done
    say "the job could not be put back; submit it again to resume"
    exit 75
}

ranks_of_node=${SLURM_NTASKS_PER_NODE:-${SLURM_TASKS_PER_NODE%%(*}}
cpus_of_rank=${SLURM_CPUS_PER_TASK:-1}
if [[ $form != node && $form != rank ]]; then
    say "form '$form' is neither node nor rank; FD_SCALE_SLURM_FORM sets it"
    exit 2
fi
count_restarts
if [[ $form == node ]]; then
    tasks_of_node=1 cpus_of_task=$((ranks_of_node * cpus_of_rank))
    command=("${program[@]}" launch --nproc "$ranks_of_node" -- "${words[@]}")
else
    tasks_of_node=$ranks_of_node cpus_of_task=$cpus_of_rank
    command=("${program[@]}" "${words[@]}")
fi
# srun ends with the highest code of its tasks, so the codes that tell most are made the highest: 2 (bad input) before
# 1 (a bug) before what became of their peers, which only lost a connection or were killed.
# shellcheck disable=SC2016  # the shell of the task expands it
in_order='trap : TERM
"$@"; code=$?
case $code in 0 | 75) ;; 2) code=202 ;; 129 | 130 | 137 | 143) code=75 ;; *) code=201 ;; esac
exit "$code"'
say "job $job: $SLURM_JOB_NUM_NODES nodes ($SLURM_JOB_NODELIST) x $ranks_of_node ranks, form '$form', in $run_folder"
if [[ $stopping ]]; then put_back; fi
# --wait: once a task has ended, the others have a minute until they are killed; a rank that lost a peer may hang.
srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$((SLURM_JOB_NUM_NODES * tasks_of_node))" \
    --ntasks-per-node="$tasks_of_node" --cpus-per-task="$cpus_of_task" --kill-on-bad-exit=0 --wait=60 \
    ${srun_options[@]+"${srun_options[@]}"} bash -c "$in_order" rank "${command[@]}" &
srun_pid=$!
trap forward_term TERM
if [[ $stopping ]]; then
    stopping=''
    forward_term
fi
while :; do
    interrupted=''
    wait "$srun_pid"
    code=$?
    if [[ ! $interrupted ]]; then break; fi # else a signal ended the waiting, not srun
done
trap '' TERM
case $code in
0) say "done" && exit 0 ;;
202) say "ended with 2, bad input: the line above says what to change; the job is not put back" && exit 2 ;;
201) say "ended with 1, a bug: the traceback is above; the job is not put back" && exit 1 ;;
75) put_back ;;
*) say "srun ended with $code: a node, a rank or the step was lost" && put_back ;;
esac
