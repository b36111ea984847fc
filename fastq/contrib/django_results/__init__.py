"""Results in Django's database: a Django app, and the result backend ``django-db``.

In the project's settings::

    INSTALLED_APPS = [..., "fastq.contrib.django_results"]
    CELERY_RESULT_BACKEND = "django-db"

then ``manage.py migrate``. The rows are ``TaskResult`` and ``GroupResult`` of ``models.py``, shown in the admin. ``django-db://alias``
names the database if it is not the one that Django's routers choose.
"""
